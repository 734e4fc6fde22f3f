"""Which options a running instance takes over, and which only the next start does."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from tyk_pump.config.root import RootOptions

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
