"""What a stopped instance has on its disk that a pump is still owed, for its return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tyk_pump import channel, cursors
from tyk_pump.coordinator.lanes import Lane, owes
from tyk_pump.source.claims import Progress, unpack
from tyk_pump.source.upkeep import Leftover
from tyk_pump.state.file import StateFile
from tyk_pump.state.journal import Damaged, FrameStore, KeptClaim, Part


class LeftPart:
    """A stream's part on the disk; see the protocol `Left` of `claims return`."""

    def __init__(self, store: FrameStore, part: Part) -> None:
        self.kept = part.kept
        self.damaged: list[str] = []
        self.records_damaged = 0
        self._store = store
        self._part = part
        self._lanes: list[tuple[Lane, int]] = []
        for cursor, value in part.cursors.items():
            progress: Progress = unpack(value, Progress)
            self._lanes.append((Lane(*cursors.parts(cursor)), progress.position))

    def leftovers(self) -> Iterator[Leftover]:
        """Yield what is owed, the last frame first."""
        lowest = min((at for _, at in self._lanes), default=self.kept)
        owed = [one for one in self._part.claims if one.end > lowest]
        for claim in sorted(owed, key=lambda one: -one.first):
            for first in reversed(self._store.places(self._part.stream, claim.name)):
                found = self._owed(claim, first)
                if found.records:
                    yield found

    def _owed(self, claim: KeptClaim, first: int) -> Leftover:
        found = Leftover(claim.name, claim.list, first, [])
        try:
            frame = self._store.read(self._part.stream, first)
        except Damaged as exc:
            lost = [n for n in range(exc.first, exc.end) if owes(self._lanes, n)]
            if lost:
                self.damaged.append(f"{self._part.stream}:{exc.first}: {exc}")
                self.records_damaged += len(lost)
            return found
        if frame is not None and frame.data:
            records: Sequence[bytes] = channel.decode_frame(frame.data)[5]
            found.records = [
                raw
                for position, raw in enumerate(records, frame.first)
                if owes(self._lanes, position)
            ]
        return found

    def returned(self) -> None:
        """All of it is back: nothing of it is ours to deliver any more."""
        self._store.drop_parts([self._part.stream])


def left_parts(file: StateFile) -> dict[str, LeftPart]:
    """Return the parts of all streams that are on the disk."""
    store = FrameStore(file)
    return {part.stream: LeftPart(store, part) for part in store.parts()}
