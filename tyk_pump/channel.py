"""Between coordinator and worker: frames go out on a queue, answers come back.

    coordinator --Queue of frames--> worker
    coordinator <--pipe of answers-- worker
    coordinator <--- shared slot --> worker   (beat, stage, stop, end of the lease)

A channel serves one incarnation of one worker. A queue whose reader was killed may
hold a lock for ever, so a new incarnation always gets a new channel.
"""

from __future__ import annotations

import os
import queue
import struct
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import msgpack

from tyk_pump.worker import outcome

# Fields of the shared slot; doubles, each written by one side only.
BEAT = 0  # monotonic time of the worker's last sign of life
STAGE = 1  # what its main thread does: IDLE, WORK, WRITE or WAIT
SINCE = 2  # monotonic time when that stage began
FRAME = 3  # first position of the frame in hand, NO_FRAME when none
STOP = 4  # set to 1 by the coordinator: finish the write in hand and leave
LEASE = 5  # monotonic time after which no frame may begin
TROUBLE = 6  # monotonic time since when writes have failed, 0 when they do not
SLOTS = 7

_LENGTH = struct.Struct("!Q")
_READ_BYTES = 1_048_576

IDLE, WORK, WRITE, WAIT = 0.0, 1.0, 2.0, 3.0
NO_FRAME = -1.0


def encode_frame(
    stream: str,
    list_name: str,
    codec: str,
    first: int,
    ids: Sequence[str] | None,
    raws: Sequence[bytes],
) -> bytes:
    """Encode one window; done once, whatever the number of pumps."""
    packed: bytes = msgpack.packb([stream, list_name, codec, first, ids, raws])
    return packed


def decode_frame(
    data: bytes,
) -> tuple[str, str, str, int, list[str] | None, list[bytes]]:
    """Return stream, list, codec, first position, ids and the raw records."""
    stream, list_name, codec, first, ids, raws = msgpack.unpackb(data)
    return stream, list_name, codec, first, ids, raws


class CoordinatorGone(Exception):
    """Nobody listens to this worker any more."""


class WorkerEnd:
    """What a worker process receives: it takes frames and answers.

    Plain attributes, so that `spawn` can hand it to the child.
    """

    def __init__(self, frames: Any, answers: Connection, slot: Any) -> None:
        self._frames = frames
        self._answers = answers
        self.slot = slot

    def take(self, seconds: float) -> bytes | None:
        """Return the next frame, or None when none came within that time."""
        try:
            data: bytes = self._frames.get(timeout=seconds)
        except queue.Empty:
            return None
        return data

    def answer(self, message: outcome.Message) -> None:
        """Tell the coordinator; blocks while the pipe is full."""
        data = outcome.encode(message)
        left = memoryview(_LENGTH.pack(len(data)) + data)
        fd = self._answers.fileno()
        try:
            while left:
                left = left[os.write(fd, left) :]
        except BrokenPipeError as exc:
            raise CoordinatorGone from exc


class Channel:
    """The coordinator's end: offers frames, reads answers, never blocks."""

    def __init__(self, context: Any, max_frames: int) -> None:
        self._queue = context.Queue(max_frames)
        # When the worker is dead the feeder thread of the queue is to end quietly.
        self._queue._ignore_epipe = True
        self.answers, self._worker_answers = context.Pipe(duplex=False)
        self.slot = context.RawArray("d", SLOTS)
        self.slot[FRAME] = NO_FRAME
        os.set_blocking(self.answers.fileno(), False)
        self._heard = bytearray()

    def worker_end(self) -> WorkerEnd:
        """Return what the child is started with."""
        return WorkerEnd(self._queue, self._worker_answers, self.slot)

    def started(self) -> None:
        """Close our copies of the child's ends, so that its death shows as an end."""
        self._worker_answers.close()
        self._queue._reader.close()

    def offer(self, frame: bytes) -> bool:
        """Put a frame on the queue; False when it is full."""
        try:
            self._queue.put_nowait(frame)
        except queue.Full:
            return False
        return True

    def receive(self) -> list[outcome.Message]:
        """Return all answers that have arrived; the end of the pipe is no error."""
        # Read by hand: `recv_bytes` would wait for the rest of an answer of which a
        # frozen worker has sent the beginning.
        try:
            while data := os.read(self.answers.fileno(), _READ_BYTES):
                self._heard += data
        except OSError:
            # Nothing more for now. Where the worker is gone, its sentinel tells.
            pass
        return self._complete()

    def _complete(self) -> list[outcome.Message]:
        messages: list[outcome.Message] = []
        heard, at = self._heard, 0
        while len(heard) - at >= _LENGTH.size:
            start = at + _LENGTH.size
            end = start + _LENGTH.unpack_from(heard, at)[0]
            if end > len(heard):
                break
            messages.append(outcome.decode(bytes(heard[start:end])))
            at = end
        del heard[:at]
        return messages

    def close(self) -> None:
        """Drop the queue and the pipe without waiting for anyone."""
        self._queue.cancel_join_thread()
        self._queue.close()
        self.answers.close()
