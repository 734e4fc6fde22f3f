"""What the coordinator says of itself at one moment: for `status`, HTTP and metrics."""

from __future__ import annotations

import msgspec

from tyk_pump.state.ledger import Sums

WRITE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds of the write-duration histogram; one more bucket is +Inf."""


class Numbers(Sums, kw_only=True):
    """One pump's books: `claimed` is the sum of all the others but `adopted`."""

    pending: int = 0
    """Claimed and not settled yet."""
    difference: int = 0
    """What is missing (or, below 0, there too often); 0 unless something is wrong."""

    def balance(self) -> None:
        """Draw the line under the columns."""
        self.difference = self.claimed - self.settled - self.pending


class PumpSnapshot(msgspec.Struct, kw_only=True):
    """One pump as it stands now; counts are since the start of this process."""

    name: str
    type: str
    state: str
    """starting, running, retrying, paused, restarting, failed or stopped."""
    delivered: int = 0
    filtered: int = 0
    dead: int = 0
    retried: int = 0
    pending: int = 0
    """Records claimed and not yet settled by this pump."""
    lag_seconds: float = 0.0
    """Age of the oldest claim that this pump has not settled; 0 when none."""
    restarts: int = 0
    last_error: str = ""
    rate: float = 0.0
    """Records settled per second, over the last ten seconds or so."""
    history: list[int] = msgspec.field(default_factory=list)
    """Records settled in each of the last sixty seconds, oldest first."""
    write_buckets: list[int] = msgspec.field(
        default_factory=lambda: [0] * (len(WRITE_BUCKETS) + 1)
    )
    """Writes per bucket (not cumulative), see WRITE_BUCKETS."""
    write_seconds: float = 0.0
    replaying: int = 0
    """Kept records that wait to be delivered once more, some seconds ago."""
    ledger: Numbers = msgspec.field(default_factory=Numbers)
    """What is booked since the state file was made, some seconds ago."""
    pids: list[int] = msgspec.field(default_factory=list)


class Snapshot(msgspec.Struct, kw_only=True):
    """The whole instance as it stands now."""

    version: str
    instance: str
    started: float
    """Seconds since the epoch."""
    ready: bool
    reasons: list[str] = msgspec.field(default_factory=list)
    """Why not ready, one sentence each."""
    pumps: list[PumpSnapshot] = msgspec.field(default_factory=list)
    redis: str = ""
    """Empty while Redis answers, else the last error."""
    redis_used: int = 0
    """Bytes of memory that Redis uses, all nodes together."""
    redis_limit: int = 0
    """Bytes that it may use; 0 without a limit."""
    redis_full_seconds: float = -1.0
    """When it is full at the present rate; -1 without a forecast."""
    lists: dict[str, int] = msgspec.field(default_factory=dict)
    """Length of each Redis list at the last look."""
    streams: int = 0
    claims: int = 0
    claimed_records: int = 0
    """Records in claims that are not yet trimmed."""
    claimed_total: int = 0
    """Records claimed since the start of this process."""
    lost_records: int = 0
    """Records that vanished from claims because Redis lost them, or in damaged frames
    of the state file."""
    journal: str = "redis"
    journal_records: int = 0
    """Records on the disk that not all pumps have settled."""
    journal_frames: int = 0
    """Frames on the disk, those kept for a replay included."""
    journal_bytes: int = 0
    purges: int = 0
    source_errors: int = 0
    statsd_errors: int = 0
    """Datagrams of our own metrics that StatsD has not taken."""
    pid: int = 0
