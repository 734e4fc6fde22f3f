"""What must be true: on the way, when all is quiet, and at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tests.faults.redis_model import RedisModel
from tests.faults.simulation.instance import SimState
from tests.faults.simulation.workers import FILTERED
from tests.faults.simulation.world import Broken
from tyk_pump.cli.audit import read_views
from tyk_pump.config.root import RedisOptions
from tyk_pump.coordinator.audit import Audit, audit
from tyk_pump.coordinator.supervisor import MAX_FRAMES
from tyk_pump.coordinator.windows import CACHED_FRAMES
from tyk_pump.source.claims import Claim, unpack
from tyk_pump.source.redis import Command, Link

if TYPE_CHECKING:
    from tests.faults.simulation.history import History
    from tests.faults.simulation.instance import Instance


def number(raw: bytes) -> int:
    """Return which record it is."""
    return int(raw.split(b" ")[0])


def numbers(data: Mapping[str, Any]) -> set[int]:
    """Return the records in all lists."""
    return {
        number(raw)
        for value in data.values()
        if isinstance(value, tuple)
        for raw in value
    }


# On the way


def bounded(history: History) -> None:
    """Memory: caches, queues and books have their limits at all times."""
    for one in history.instances:
        coordinator = one.coordinator
        if coordinator is None:
            continue
        cached = coordinator._windows._cache
        if len(cached) > CACHED_FRAMES:
            history.world.fail(f"{len(cached)} frames cached")
        for worker in coordinator.workers:
            if len(worker.lane.sent) > MAX_FRAMES:
                history.world.fail(f"{len(worker.lane.sent)} frames in a queue")
            if len(worker.unsettled) > MAX_FRAMES:
                history.world.fail(f"{len(worker.unsettled)} answers unsettled")


# Quiet


def unsettled(history: History) -> str:
    """Return what is still to be done, or nothing."""
    for key, value in history.redis.data.items():
        if isinstance(value, tuple) and ":claim:" not in key:
            return f"{len(value)} records in {key}"
    for one in history.instances:
        if why := _unsettled(one):
            return f"{one.name}: {why}"
    orphans = _claims_of_nobody(history)
    return f"claims of nobody: {orphans}" if orphans else ""


def _unsettled(one: Instance) -> str:
    coordinator = one.coordinator
    if coordinator is None:
        return "it is dead"
    lifeline, settler = coordinator._lifeline, coordinator._settler
    journal, source = coordinator._journal, lifeline.source
    if source is None or lifeline.error:
        return f"Redis: {lifeline.error}"
    for stream in coordinator._streams():
        for worker in coordinator.workers:
            if worker.lane.settled(stream) < stream.end:
                at = worker.lane.settled(stream)
                return f"{worker.lane.field} is at {at} of {stream}"
        if stream.intents and not stream.disk:
            return f"intents in {stream}"
    for worker in coordinator.workers:
        if worker.lane.sent or worker.unsettled or worker.state != "running":
            return f"{worker.lane.field} is {worker.state}, has {worker.lane.sent}"
    if settler._moved or settler.error or journal.error or journal._moved:
        return f"to write: {settler._moved} {journal._moved} {settler.error}"
    if settler.books._opened or settler.books._closed:
        return "rows of the ledger to write"
    if any(source._owed.values()) or source._booked:
        return "fields that Redis has not taken"
    if any(stream.claims for stream in source.streams.values()):
        return "claims that are settled and not finished"
    return ""


def quiet(history: History) -> bool:
    """Say whether nothing is left to do."""
    return not unsettled(history)


def _claims_of_nobody(history: History) -> list[str]:
    """Streams that wait for a new owner."""
    held: set[str] = set()
    streams = [
        name.decode()
        for key, value in history.redis.data.items()
        if key.endswith("tyk-pump:streams") and isinstance(value, dict)
        for name in value
    ]
    for one in history.instances:
        if one.coordinator is not None and one.coordinator._lifeline.source:
            held |= set(one.coordinator._lifeline.source.streams)
    return [name for name in streams if name not in held]


# The end


def left_behind(history: History) -> list[str]:
    """Return keys that should not outlive the last instance.

    Two things may, and both hold nothing that is owed. What was written into the hash
    of a stream that was gone already, by a late command or by an adopter who did not
    hear the answer: the claims in it have no keys. And what a failover brought back
    between the two commands that remove a finished stream.
    """
    return [
        key
        for key, value in history.redis.data.items()
        if isinstance(value, tuple)
        or key.endswith("tyk-pump:streams")
        or ("tyk-pump:stream:" in key and not _is_remains(history, value))
    ]


def _is_remains(history: History, fields: Any) -> bool:
    unsure = history.plan.unsure or history.plan.late
    return (unsure and isinstance(fields, dict)) and not any(
        unpack(value, Claim).key in history.redis.data
        for field, value in fields.items()
        if field.startswith(b"claim:")
    )


def judge(history: History) -> None:
    """All that must hold when everybody has left."""
    _expired(history)
    keys = left_behind(history)
    if keys and not history.lossy:
        raise Broken(f"left behind in Redis: {keys}")
    _conserved(history)
    _booked(history)


def _expired(history: History) -> None:
    """Redis itself lost what expired in an unclaimed list; a claim never does."""
    for key, value in history.redis.expired:
        if isinstance(value, tuple):
            if ":claim:" in key:
                raise Broken(f"a claim has expired: {key}")
            history.losable |= set(map(number, value))


def _letters(one: Instance, pump: str) -> dict[int, str]:
    rows = one.disk.execute(
        "SELECT raw, reason FROM dead_letters WHERE pump = ?", (pump,)
    )
    return {number(raw): reason for raw, reason in rows}


def _conserved(history: History) -> None:
    """Each record is delivered, filtered, dead, or was somebody else's."""
    forgotten: set[int] = set()
    if history.lossy_again or (history.scarce and history.lossy):
        # The note of a claim was in the state file only (Redis was full, or had come
        # back without the intent), Redis had it for a moment, and came back without.
        # The claim is still there, and nobody knows.
        forgotten = numbers(history.redis.data)
    for pump in history.plan.pumps:
        end = history.ends[pump.name]
        fates = history.plan.fates.get(pump.name, {})
        unowed = history.plan.unowed.get(pump.name, set())
        if history.lossy and unowed:
            continue  # Redis may have lost the cursor that said what it is owed
        dead: dict[int, str] = {}
        for one in history.instances:
            dead |= _letters(one, pump.name)
        for record in range(history.pushed):
            fate = fates.get(record)
            if fate == FILTERED and record in end.effects:
                raise Broken(f"{record} was filtered and has arrived")
            if record in end.effects or record in dead:
                continue
            if record in history.foreign | unowed:
                continue
            if record in history.losable | forgotten:
                continue
            if fate != FILTERED:
                raise Broken(f"record {record} is lost at {pump.name}")


# The books


class Onlooker(Link):
    """The link of `tyk-pump audit`, on which nothing goes wrong."""

    def __init__(self, redis: RedisModel) -> None:
        super().__init__(RedisOptions())
        self._redis = redis

    def execute(
        self, commands: Sequence[Command], *, atomic: bool = False
    ) -> list[Any]:
        return self._redis.execute(commands, atomic=atomic)


def audited(history: History, one: Instance) -> Audit:
    """Do what `tyk-pump audit` does for an instance that has left."""
    prefix = history.plan.root.analytics_storage_config.prefix()
    file = SimState(one)
    return audit(
        file.ledger, read_views(Onlooker(history.redis), prefix, file, one.name)
    )


def waiting(history: History) -> list[str]:
    """Return the instances that have something to deliver, on their disks.

    Who leaves last may have taken over what others gave back a moment before.
    """
    return [
        one.name
        for one in history.instances
        if any(line.pending for line in audited(history, one).pumps)
    ]


def _booked(history: History) -> None:
    """The books of each instance balance, and nothing in them is open."""
    for one in history.instances:
        found = audited(history, one)
        if not found.balanced and not (history.lossy and history.plan.instances > 1):
            # A Redis that comes back with older data has forgotten who else has held a
            # stream: then what the other has settled is a difference, now and then.
            hours = [line for line in found.hours if line.difference]
            others = [*found.letters, *found.replays]
            raise Broken(f"the books of {one.name} do not balance: {hours} {others}")
        for line in found.pumps:
            if line.pending:
                raise Broken(f"in the books of {one.name} is open: {line}")
            if line.forgotten:
                raise Broken(f"in the books of {one.name} is forgotten: {line}")
            if line.lost and not _may_seem_lost(history):
                raise Broken(f"in the books of {one.name} is lost: {line}")
            # What comes in our next life may set a cursor back behind what is trimmed.
            unclear = history.scarce or history.plan.belated
            if line.unknown and not (unclear or _may_seem_lost(history)):
                raise Broken(f"in the books of {one.name} is unknown: {line}")


def _may_seem_lost(history: History) -> bool:
    """Say whether a claim may be found trimmed behind where its cursors are.

    Redis came back with older data. Or a stream has been adopted, and who had it before
    has settled more than its cursors in Redis say: there was no memory for them, or the
    last trim was on its way for longer than a lease. Who had it before may be we.
    """
    plan = history.plan
    again = plan.instances > 1 or plan.belated
    return history.lossy or (history.scarce and again) or plan.late
