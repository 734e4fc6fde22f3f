"""The exception family: what went wrong, and who must act.

    TykPumpError
    ├── ConfigError        the operator must act; says where
    ├── SecretError        a store has no text for a reference, or none now
    ├── SourceError        Redis cannot serve us now; the coordinator backs off
    │   └── LeaseLost      another instance owns our stream; drop everything in hand
    ├── StateError         the state folder or file cannot be used
    │   └── DamagedState   its bytes are not those that were written
    ├── CodecError         these bytes are no record; kept aside, never retried
    └── WriteError         a pump could not deliver the whole batch
        ├── TransientError   `pending` may pass later, `rejected` never will
        └── RejectedRecords  `rejected` never will, each with its reason

Each survives pickling: children report to the coordinator in another process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class TykPumpError(Exception):
    """Base of all errors that we raise on purpose."""


class ConfigError(TykPumpError):
    """The configuration is wrong; holds one message per fault, each with its place."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        return type(self), (self.faults,)


class SecretError(TykPumpError):
    """A store of secrets gives no text; where it is `passing`, it may do so later."""

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self),), {"passing": self.passing}


class SourceError(TykPumpError):
    """Redis cannot serve us now."""


class LeaseLost(SourceError):
    """Another instance has taken over what we held."""


class StateError(TykPumpError):
    """The state folder cannot be used."""


class DamagedState(StateError):
    """The state file is damaged; the next start saves what can be read."""


class CodecError(TykPumpError):
    """These bytes are no record."""


class WriteError(TykPumpError):
    """A pump could not deliver the whole batch.

    Positions are indexes into the batch that `write` was given.
    """

    def __init__(
        self,
        reason: str,
        *,
        pending: Sequence[int] | None = None,
        rejected: Mapping[int, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pending = None if pending is None else list(pending)
        self.rejected = dict(rejected or {})
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        state = {
            "pending": self.pending,
            "rejected": self.rejected,
            "retry_after": self.retry_after,
        }
        return type(self), (self.reason,), state


class TransientError(WriteError):
    """Some or all records may pass later; `pending` None means all not rejected."""


class RejectedRecords(WriteError):
    """The back end refused these records for good; the others have arrived."""

    def __init__(
        self,
        reason: str,
        *,
        pending: Sequence[int] | None = None,
        rejected: Mapping[int, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, pending=pending or [], rejected=rejected)
