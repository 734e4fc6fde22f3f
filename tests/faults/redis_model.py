"""Redis in memory: the commands that we use, with a given clock, copied in no time.

For the exploration of the claim protocol and for the simulation. Values are never
changed in place, so that a snapshot is a copy of two small dicts, and a state can be
hashed. Refusals are returned as redis-py's exceptions, as `Link.execute` returns them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.exceptions import OutOfMemoryError, ResponseError

Value = bytes | tuple[bytes, ...] | dict[bytes, bytes]
Snapshot = tuple[dict[str, Value], dict[str, float]]

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
_NEEDS_MEMORY = frozenset({"SET", "HSET", "HSETNX", "RPUSH", "LPUSH"})


class RedisModel:
    """One Redis server with one database."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.full = False
        """True while Redis is at `maxmemory`, with the policy `noeviction`."""
        self.data: dict[str, Value] = {}
        self.expiries: dict[str, float] = {}
        self.clock = clock

    # State

    def snapshot(self) -> Snapshot:
        """Return all keys as they are: a backup, or what a lagging replica has."""
        return dict(self.data), dict(self.expiries)

    def restore(self, snapshot: Snapshot) -> None:
        """Come back with older data, or go back to an older state of the world."""
        data, expiries = snapshot
        self.data, self.expiries = dict(data), dict(expiries)

    def state(self) -> tuple[Any, ...]:
        """Return something to hash and to compare: keys, values, and what expires."""
        return (
            self.full,
            frozenset((k, _frozen(v)) for k, v in self.data.items()),
            frozenset(self.expiries.items()),
        )

    def __hash__(self) -> int:
        return hash(self.state())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RedisModel) and self.state() == other.state()

    # The ways in, as `Link` has them

    def execute(
        self, commands: Sequence[Sequence[Any]], *, atomic: bool = False
    ) -> list[Any]:
        """Run commands; error replies stand in their places."""
        if atomic and self.full:
            # Whatever is queued needs memory, and EXEC refuses the whole of it.
            return [_no_memory() for _ in commands]
        return [self.run(command) for command in commands]

    def compare_and_set(
        self, key: str, field: str, old: bytes, new: str | bytes
    ) -> bool:
        """Set a field of a hash if it still holds `old`, as WATCH has it."""
        if self.run(("HGET", key, field)) != old or self.full:
            return False
        self.run(("HSET", key, field, new))
        return True

    def run(self, command: Sequence[Any]) -> Any:
        """Run one command; return its reply, an exception where it is refused."""
        name = str(command[0]).upper()
        if self.full and name in _NEEDS_MEMORY:
            return _no_memory()
        if self.expiries:
            self._end_lives()
        try:
            return getattr(self, f"_{name.lower()}")(*command[1:])
        except ResponseError as exc:
            return exc

    def _end_lives(self) -> None:
        now = self.clock()
        for key in [key for key, at in self.expiries.items() if at <= now]:
            self._remove(key)

    def _remove(self, key: str) -> bool:
        self.expiries.pop(key, None)
        return self.data.pop(key, None) is not None

    # Keys

    def _ping(self, message: Any = b"PONG") -> bytes:
        return _bytes(message)

    def _exists(self, *keys: Any) -> int:
        return sum(_key(key) in self.data for key in keys)

    def _unlink(self, *keys: Any) -> int:
        return sum(self._remove(_key(key)) for key in keys)

    _del = _unlink

    def _renamenx(self, source: Any, target: Any) -> int:
        old, new = _key(source), _key(target)
        if old not in self.data:
            raise ResponseError("no such key")
        if new in self.data:
            return 0
        self._move(old, new)
        return 1

    def _rename(self, source: Any, target: Any) -> bytes:
        """Only a deliberate bug uses it: it overwrites."""
        old, new = _key(source), _key(target)
        if old not in self.data:
            raise ResponseError("no such key")
        if new != old:
            self._remove(new)
            self._move(old, new)
        return b"OK"

    def _move(self, old: str, new: str) -> None:
        self.data[new] = self.data.pop(old)
        if old in self.expiries:  # a time to live travels along
            self.expiries[new] = self.expiries.pop(old)

    def _persist(self, key: Any) -> int:
        return int(self.expiries.pop(_key(key), None) is not None)

    def _pexpire(self, key: Any, milliseconds: Any) -> int:
        name = _key(key)
        if name not in self.data:
            return 0
        self.expiries[name] = self.clock() + int(milliseconds) / 1000
        return 1

    def _expire(self, key: Any, seconds: Any) -> int:
        return self._pexpire(key, int(seconds) * 1000)

    def _pttl(self, key: Any) -> int:
        name = _key(key)
        if name not in self.data:
            return -2
        if name not in self.expiries:
            return -1
        return int((self.expiries[name] - self.clock()) * 1000)

    # Strings

    def _set(self, key: Any, value: Any, *options: Any) -> bytes | None:
        name = _key(key)
        words = [str(option).upper() for option in options]
        if "NX" in words and name in self.data:
            return None
        self._remove(name)
        self.data[name] = _bytes(value)
        for unit, milliseconds in (("EX", 1000), ("PX", 1)):
            if unit in words:
                amount = int(words[words.index(unit) + 1])
                self._pexpire(name, amount * milliseconds)
        return b"OK"

    def _get(self, key: Any) -> bytes | None:
        value = self.data.get(_key(key))
        if value is not None and not isinstance(value, bytes):
            raise ResponseError(WRONG_TYPE)
        return value

    # Hashes

    def _fields(self, key: Any) -> dict[bytes, bytes]:
        value = self.data.get(_key(key), {})
        if not isinstance(value, dict):
            raise ResponseError(WRONG_TYPE)
        return value

    def _hset(self, key: Any, *pairs: Any) -> int:
        if not pairs or len(pairs) % 2:
            raise ResponseError("wrong number of arguments for 'hset' command")
        before = self._fields(key)
        fields = map(_bytes, pairs[::2])
        after = before | dict(zip(fields, map(_bytes, pairs[1::2]), strict=True))
        self.data[_key(key)] = after
        return len(after) - len(before)

    def _hsetnx(self, key: Any, field: Any, value: Any) -> int:
        if _bytes(field) in self._fields(key):
            return 0
        return self._hset(key, field, value)

    def _hget(self, key: Any, field: Any) -> bytes | None:
        return self._fields(key).get(_bytes(field))

    def _hgetall(self, key: Any) -> list[bytes]:
        return [item for pair in self._fields(key).items() for item in pair]

    def _hdel(self, key: Any, *fields: Any) -> int:
        before = self._fields(key)
        gone = set(map(_bytes, fields))
        after = {field: value for field, value in before.items() if field not in gone}
        if after:
            self.data[_key(key)] = after
        else:
            self._remove(_key(key))
        return len(before) - len(after)

    # Lists

    def _items(self, key: Any) -> tuple[bytes, ...]:
        value = self.data.get(_key(key), ())
        if not isinstance(value, tuple):
            raise ResponseError(WRONG_TYPE)
        return value

    def _keep(self, key: Any, items: Iterable[bytes]) -> int:
        kept = tuple(items)
        if kept:
            self.data[_key(key)] = kept
        else:
            self._remove(_key(key))
        return len(kept)

    def _rpush(self, key: Any, *values: Any) -> int:
        return self._keep(key, (*self._items(key), *map(_bytes, values)))

    def _lpush(self, key: Any, *values: Any) -> int:
        return self._keep(key, (*map(_bytes, values[::-1]), *self._items(key)))

    def _llen(self, key: Any) -> int:
        return len(self._items(key))

    def _lindex(self, key: Any, index: Any) -> bytes | None:
        items = self._items(key)
        at = int(index)
        return items[at] if -len(items) <= at < len(items) else None

    def _lrange(self, key: Any, start: Any, stop: Any) -> list[bytes]:
        items = self._items(key)
        return list(items[slice(*_span(int(start), int(stop), len(items)))])

    def _ltrim(self, key: Any, start: Any, stop: Any) -> bytes:
        items = self._items(key)
        self._keep(key, items[slice(*_span(int(start), int(stop), len(items)))])
        return b"OK"


def _span(start: int, stop: int, length: int) -> tuple[int, int]:
    """Return Redis' inclusive range as a slice."""
    first = max(0, start + length) if start < 0 else start
    last = stop + length if stop < 0 else stop
    return first, max(first, last + 1)


def _no_memory() -> OutOfMemoryError:
    return OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")


def _frozen(value: Value) -> Any:
    return frozenset(value.items()) if isinstance(value, dict) else value


def _key(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
