"""What a worker process sets up for itself."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
from tyk_pump.worker.process import keep_memory
keep_memory()
def batch():
    return [b"x" * (1 << 20) for _ in range(8)]
for _ in range(3):
    batch()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(20):
    batch()
print(faults() - before)
"""


def new_pages(**environment: str) -> int:
    """Return how many new pages twenty batches of 8 MiB needed, after three others."""
    clean = {k: v for k, v in os.environ.items() if "MALLOC" not in k}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(
        command, check=True, capture_output=True, env={**clean, **environment}
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library"
)
def test_memory_of_a_batch_serves_the_next_one() -> None:
    """No page is asked for anew, unless the operator has set the allocator."""
    assert new_pages() < 2048  # those of one batch
    assert new_pages(MALLOC_TRIM_THRESHOLD_="131072") > 2048
