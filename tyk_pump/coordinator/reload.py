"""Which options a running instance takes over, and which only the next start does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from tyk_pump.config.load import Config
from tyk_pump.config.root import PumpConfig, RootOptions

logger = logging.getLogger(__name__)

FIXED = (
    "analytics_storage_config",
    "health_check_endpoint_port",
    "health_check_endpoint_name",
    "enable_http_profiler",
    "state_dir",
    "instance_name",
    "lease_time",
    "statsd_connection_string",
    "statsd_prefix",
)
SHARED = (
    "max_record_size",
    "omit_detailed_recording",
    "stuck_timeout",
    "log_level",
    "log_format",
)


def keep_fixed(present: RootOptions, new: RootOptions) -> RootOptions:
    """Return the new options with the present values of those that need a restart."""
    kept: dict[str, Any] = {}
    for name in FIXED:
        if getattr(present, name) != getattr(new, name):
            logger.warning(f"{name}: the new value counts from the next start")
            kept[name] = getattr(present, name)
    return msgspec.structs.replace(new, **kept)


def same_for_workers(present: RootOptions, new: RootOptions) -> bool:
    """Say whether no option has changed that every worker was started with."""
    return all(getattr(present, name) == getattr(new, name) for name in SHARED)


def keep_running(config: Config, running: Mapping[str, PumpConfig]) -> list[str]:
    """Put what runs in the place of pumps whose store of secrets does not answer.

    Only where the operator has written nothing else by now. Return their names.
    """
    kept = []
    for index, pump in enumerate(config.pumps):
        old = running.get(pump.name)
        if not pump.passing or old is None or old.fault:
            continue
        if (old.type, old.meta) == (pump.type, pump.meta):
            config.pumps[index] = old
            kept.append(pump.name)
    return kept
