"""Registers the faulty pump in a Python process that has this folder on its path.

With TYK_TEST_POISON, the bytes of a record and names of pumps, the workers of these
pumps die where they meet these bytes.
"""

import os
import signal
from typing import Any

from tyk_pump import pumps

pumps.REGISTRY["faulty"] = "faulty_pump:FaultyPump"
pumps.REGISTRY["undriven"] = "undriven_pump:UndrivenPump"


def _poison(word: str, *names: str) -> None:
    from tyk_pump.worker.loop import Worker

    real = Worker._decode

    def decode(worker: Worker, *frame: Any) -> Any:
        if worker._config.name in names and any(word.encode() in x for x in frame[5]):
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(worker, *frame)

    Worker._decode = decode  # type: ignore[assignment, method-assign]


if "TYK_TEST_POISON" in os.environ:
    _poison(*os.environ["TYK_TEST_POISON"].split())
