"""What many tags of a document have in common, for the warning about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise


def common_prefixes(tags: Iterable[str], most: int = 5) -> list[str]:
    """Return the prefixes that the most pairs of tags share, those of most pairs first.

    What two tags share is the whole run of characters that both begin with, if any. All
    pairs are counted without being looked at: in sorted order each prefix is shared by
    a run of neighbours.
    """
    votes: Counter[str] = Counter()
    for prefix, pairs in _shared(sorted(set(tags))):
        if prefix:
            votes[prefix] += pairs
    ordered = sorted(votes.items(), key=lambda vote: (-vote[1], vote[0]))
    return [prefix for prefix, _ in ordered[:most]]


def _shared(tags: list[str]) -> Iterator[tuple[str, int]]:
    """Yield the longest prefixes of pairs of sorted texts, with numbers of pairs."""
    # `open_` has the prefixes that end at the tag at hand, each longer than the one
    # before, with the number of tags behind that share it with the next.
    open_: list[tuple[str, int]] = []
    for before, tag in pairwise(tags):
        prefix = _common(before, tag)
        size = 1
        while open_ and len(open_[-1][0]) >= len(prefix):
            size += open_.pop()[1]
        open_.append((prefix, size))
        yield from open_


def _common(one: str, other: str) -> str:
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:at]
    return min(one, other, key=len)
