"""Regular expressions as Go reads them, for rules that operators have written there.

Most mean the same to `re`. What does not is put into its words, and what Go refuses is
refused here too: a rule must not begin to mean something else.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Final

_POSIX: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
}
_SHORT: Final = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}
_PLAIN_ESCAPES: Final = frozenset("aftnrv")
_ANCHORS: Final = {"A": r"\A", "z": r"\Z", "b": r"\b", "B": r"\B"}
_REPEAT: Final = re.compile(r"\{(\d+)(,(\d*))?\}", re.ASCII)
_GROUP: Final = re.compile(r"\(\?(?:P?<([^>]*)>|([a-zA-Z-]*)([:)]))", re.ASCII)
_REFERENCE: Final = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})")
_MOST_REPEATS: Final = 1000


class Unfit(ValueError):
    """Go takes no such expression, or `re` has no words for it."""


def compiled(expression: str) -> re.Pattern[str]:
    """Return a pattern that finds what Go finds; Unfit says what is wrong."""
    translated = _Translation(expression).whole()
    try:
        with warnings.catch_warnings():
            # Of characters that may mean more one day: they are escaped by then.
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(translated, re.ASCII)
    except (re.error, RecursionError, OverflowError) as exc:
        raise Unfit(str(exc)) from exc


def replacer(pattern: re.Pattern[str], template: str) -> Callable[[str], str]:
    """Return what replaces each match, with Go's `$1` and `${name}` in the template.

    A group that the pattern does not have is an empty text.
    """
    parts = _template(pattern, template)

    def made(match: re.Match[str]) -> Iterator[str]:
        for part in parts:
            yield part if isinstance(part, str) else match[part[0]] or ""

    def replace(text: str) -> str:
        done: list[str] = []
        at = end = 0
        while at <= len(text) and (match := pattern.search(text, at)):
            start, before = match.start(), end
            done.append(text[before:start])
            end = match.end()
            # Nothing empty is found right behind a match, and nothing longer where
            # something empty was found.
            if end > before or start == 0:
                done.extend(made(match))
            at = max(end, at + 1)
        done.append(text[end:])
        return "".join(done)

    return replace


def _template(pattern: re.Pattern[str], template: str) -> list[str | tuple[int]]:
    parts: list[str | tuple[int]] = []
    at = 0
    for found in _REFERENCE.finditer(template):
        parts.append(template[at : found.start()])
        at = found.end()
        name = found[1] or found[2]
        if name is None:
            parts.append("$")
        elif name.isdecimal():
            number = int(name)
            parts.append((number,) if number <= pattern.groups else "")
        else:
            group = pattern.groupindex.get(name)
            parts.append("" if group is None else (group,))
    parts.append(template[at:])
    return [part for part in parts if part]


class _Translation:
    """One pass over an expression."""

    def __init__(self, expression: str) -> None:
        self._text = expression
        self._at = 0
        self._open: list[list[str]] = [[]]
        """For each open group the flags that were set within it."""
        self._out: list[str] = []

    def whole(self) -> str:
        """Return the expression in the words of `re`."""
        while self._at < len(self._text):
            self._next()
        if len(self._open) > 1:
            raise Unfit("missing closing )")
        self._end_flags()
        return "".join(self._out)

    def _take(self, count: int = 1) -> str:
        taken = self._text[self._at : self._at + count]
        self._at += count
        return taken

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> None:
        char = self._peek()
        if char == "\\":
            self._out.append(self._escape())
        elif char == "[":
            self._out.append(self._class())
        elif char == "(":
            self._group()
        elif char == ")":
            if len(self._open) == 1:
                raise Unfit("unexpected )")
            self._end_flags()
            self._open.pop()
            self._out.append(self._take())
        elif char == "|":
            self._alternative()
        elif char == "$":
            # To `re` it is also true before a last line end.
            self._take()
            self._out.append("$" if self._multiline() else r"\Z")
        elif char in "*+?" or (char == "{" and _REPEAT.match(self._text, self._at)):
            self._repeat()
        else:
            self._out.append(rf"\{char}" if char == "{" else char)
            self._take()

    # Groups and flags

    def _group(self) -> None:
        if not self._text.startswith("(?", self._at):
            self._out.append(self._take())
            self._open.append([])
            return
        found = _GROUP.match(self._text, self._at)
        if found is None:
            raise Unfit(f"Go has no group like {self._text[self._at :][:4]}")
        self._at = found.end()
        name, flags, end = found.groups()
        if name is not None:
            self._out.append(f"(?P<{name}>")
            self._open.append([])
            return
        _check_flags(flags)
        if end == ":":
            self._out.append(f"(?{flags}:")
            self._open.append(_multiline_flags(flags))
        elif flags:
            # To the end of the group around it, over all its alternatives.
            self._open[-1].append(flags)
            self._out.append(f"(?{flags}:")

    def _alternative(self) -> None:
        flags = [flag for flag in self._open[-1] if not flag.startswith("(")]
        self._out.append(")" * len(flags) + self._take())
        self._out.extend(f"(?{flag}:" for flag in flags)

    def _end_flags(self) -> None:
        flags = [flag for flag in self._open[-1] if not flag.startswith("(")]
        self._out.append(")" * len(flags))

    def _multiline(self) -> bool:
        on = False
        for flags in (flag.strip("(") for group in self._open for flag in group):
            set_, _, unset = flags.partition("-")
            on = (on or "m" in set_) and "m" not in unset
        return on

    # Repeats

    def _repeat(self) -> None:
        found = _REPEAT.match(self._text, self._at)
        if found is not None and self._peek() == "{":
            low, high = int(found[1]), int(found[3] or found[1])
            if max(low, high) > _MOST_REPEATS or low > high:
                raise Unfit(f"invalid repeat count {found[0]}")
            self._out.append(self._take(len(found[0])))
        else:
            self._out.append(self._take())
        if self._peek() == "?":
            self._out.append(self._take())
        if self._peek() in ("*", "+", "?") and self._peek():
            raise Unfit("invalid nested repetition operator")

    # Characters

    def _escape(self, *, in_class: bool = False) -> str:
        self._take()
        char = self._take()
        if not char:
            raise Unfit("trailing backslash")
        if char in "pPC":
            raise Unfit(rf"\{char} is not supported here")
        if char == "Q" and not in_class:
            quoted, _, _ = self._text[self._at :].partition(r"\E")
            self._take(len(quoted) + 2)
            return re.escape(quoted)
        if char in _PLAIN_ESCAPES:
            return rf"\{char}"
        if char == "x":
            return self._hexadecimal()
        if char in "01234567":
            return self._octal(char)
        if char.lower() in _SHORT:
            return self._short(char, in_class)
        if not in_class and char in _ANCHORS:
            return _ANCHORS[char]
        if char.isascii() and char.isalnum():
            raise Unfit(rf"invalid escape sequence \{char}")
        return re.escape(char)

    def _hexadecimal(self) -> str:
        found = re.compile(r"\{([0-9A-Fa-f]+)\}|([0-9A-Fa-f]{2})").match(
            self._text, self._at
        )
        if found is None:
            raise Unfit(r"invalid escape sequence \x")
        self._take(len(found[0]))
        number = int(found[1] or found[2], 16)
        if number > 0x10FFFF:
            raise Unfit(rf"invalid escape sequence \x{found[0]}")
        return rf"\U{number:08x}"

    def _octal(self, first: str) -> str:
        found = re.compile("[0-7]{0,2}").match(self._text, self._at)
        digits = first + (found[0] if found else "")
        if first != "0" and len(digits) == 1:
            raise Unfit(rf"invalid escape sequence \{first}")
        self._take(len(digits) - 1)
        return rf"\U{int(digits, 8):08x}"

    def _short(self, char: str, in_class: bool) -> str:
        within = _SHORT[char.lower()]
        if char.islower():
            return within if in_class else f"[{within}]"
        if in_class and char == "S":
            # `re` takes the vertical tab for space as well.
            return r"\S\v"
        return rf"\{char}" if in_class else f"[^{within}]"

    def _class(self) -> str:
        out = [self._take()]
        if self._peek() == "^":
            out.append(self._take())
        if self._peek() == "]":
            out.append(rf"\{self._take()}")
        while True:
            char = self._peek()
            if not char:
                raise Unfit("missing closing ]")
            if char == "]":
                out.append(self._take())
                return "".join(out)
            if char == "\\":
                out.append(self._escape(in_class=True))
            elif self._text.startswith("[:", self._at):
                out.append(self._posix())
            else:
                self._take()
                out.append(rf"\{char}" if char in "[&~|" else char)

    def _posix(self) -> str:
        found = re.compile(r"\[:(\^?)(\w+):\]").match(self._text, self._at)
        if found is None:
            self._take()
            return r"\["
        if found[1] or found[2] not in _POSIX:
            raise Unfit(f"invalid character class {found[0]}")
        self._take(len(found[0]))
        return _POSIX[found[2]]


def _check_flags(flags: str) -> None:
    if not re.fullmatch("[ims]*(-[ims]+)?", flags):
        raise Unfit(f"invalid or unsupported flags (?{flags})")


def _multiline_flags(flags: str) -> list[str]:
    """Return what a group with flags of its own says of lines, marked as closed."""
    return [f"({flags}"] if "m" in flags else []
