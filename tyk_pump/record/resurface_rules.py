"""Resurface's logging rules: what of a call is told, masked or kept back.

A message is a list of details, pairs of name and value. A rule stands on a line of its
own and speaks of the details whose name its first expression matches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tyk_pump.record import goregexp

Detail = tuple[str, str]
Replace = Callable[[str], str]
Test = Callable[[str], object]

FILE: Final = "file://"
DELIMITERS: Final = "~!%|/"
_SWITCHES: Final = ("allow_http_url", "skip_compression", "skip_submission")
_SETS: Final = ("debug", "standard", "strict", "default")
_PLANS: Final = 4096
"""Names of which it is remembered what applies; callers make up names."""

_NAME: Final = re.compile(r"\s*([a-z_]+)(?=[\s#]|$)")
_END: Final = re.compile(r"\s*(#.*)?$")
_SPACE: Final = re.compile(r"\s*")


class Fault(ValueError):
    """A rule that cannot be followed; the text names its line."""


class Rule(msgspec.Struct, frozen=True):
    """One rule about details."""

    scope: re.Pattern[str]
    """Finds the names of the details that it is about."""
    verb: str
    """`stop`, `remove` and their conditional forms, or `replace`."""
    test: Test | None = None
    """The condition on the value."""
    replace: Replace | None = None


class _Plan(msgspec.Struct, frozen=True):
    """What applies to the details of one name, in the order of its application."""

    stops: tuple[Test | None, ...] = ()
    passes: tuple[tuple[int, Test], ...] = ()
    """Number of a rule that must be fulfilled, and its condition."""
    removes: tuple[tuple[Test | None, bool], ...] = ()
    """Conditions, and whether it is their failing that removes."""
    replaces: tuple[Replace, ...] = ()


NO_PLAN: Final = _Plan()


class Rules:
    """A parsed text of rules."""

    def __init__(self, text: str) -> None:
        """Raise Fault where a rule cannot be followed."""
        self.switches: set[str] = set()
        self.sample: int | None = None
        """So many of a hundred messages are sent; None: all."""
        self.session: list[re.Pattern[str]] = []
        """Find the names of cookies to copy."""
        self._rules: list[Rule] = []
        if not text.strip():
            text = "include default"
        for number, line in enumerate(re.split(r"\r?\n", text), 1):
            try:
                self._read(line)
            except ValueError as exc:
                raise Fault(f"line {number}: {exc}: {line.strip()}") from exc
        self._stops = any(rule.verb.startswith("stop") for rule in self._rules)
        self._needed = sum(_is_pass(rule) for rule in self._rules)
        self._plans: dict[str, _Plan] = {}

    def apply(self, details: Sequence[Detail]) -> list[Detail]:
        """Return the details that may be told; none where the message is kept back."""
        if not self._rules:
            return [detail for detail in details if detail[1]]
        plans = [self._plans.get(name) or self._plan(name) for name, _ in details]
        if self._stops and self._stopped(details, plans):
            return []
        left = []
        for detail, plan in zip(details, plans, strict=True):
            name, value = detail
            if plan is not NO_PLAN:
                if plan.removes and _removed(plan, value):
                    continue
                for replace in plan.replaces:
                    value = replace(value)
                detail = (name, value)
            if value:
                left.append(detail)
        return left

    def _stopped(self, details: Sequence[Detail], plans: list[_Plan]) -> bool:
        fulfilled = set()
        for (_, value), plan in zip(details, plans, strict=True):
            for stop in plan.stops:
                if stop is None or stop(value):
                    return True
            for number, test in plan.passes:
                if number not in fulfilled and test(value):
                    fulfilled.add(number)
        return len(fulfilled) < self._needed

    def _plan(self, name: str) -> _Plan:
        about = [
            (number, rule)
            for number, rule in enumerate(self._rules)
            if rule.scope.search(name)
        ]
        plan = _plan(about) if about else NO_PLAN
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        self._plans[name] = plan
        return plan

    # Lines

    def _read(self, line: str) -> None:
        if _END.match(line):
            return
        at = _SPACE.match(line)
        assert at is not None
        if line[at.end()] in DELIMITERS:
            self._rules.append(_rule(line))
            return
        found = _NAME.match(line)
        verb, rest = (found[1], line[found.end() :]) if found else ("", line)
        if verb in _SWITCHES:
            _ended(rest)
            self.switches.add(verb)
        elif verb == "include":
            self._include(rest)
        elif verb == "sample":
            self._sample(rest)
        elif verb == "copy_session_field":
            expression, rest = _expression(rest)
            _ended(rest)
            self.session.append(_whole(expression))
        else:
            raise ValueError("unknown rule")

    def _include(self, rest: str) -> None:
        found = _NAME.match(rest)
        if found is None or found[1] not in _SETS:
            raise ValueError(f"there are the sets {', '.join(_SETS)}")
        _ended(rest[found.end() :])
        if found[1] == "debug":
            self.switches.add("allow_http_url")
            self.session.append(re.compile(""))
        else:
            self._rules += STANDARD if found[1] == "standard" else STRICT

    def _sample(self, rest: str) -> None:
        found = re.match(r"\s*(\d{1,9})", rest, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= 99:
            raise ValueError("sample wants a whole number from 1 to 99")
        _ended(rest[found.end() :])
        if self.sample is not None:
            raise ValueError("sample may stand there once")
        self.sample = int(found[1])


def text_of(option: str) -> str:
    """Return the rules that an option holds or names; Fault says why not."""
    if not option.startswith(FILE):
        return option
    path = option.removeprefix(FILE).strip()
    try:
        return Path(path).read_text("utf-8")
    except OSError as exc:
        raise Fault(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise Fault(f"{path}: is no UTF-8 text") from exc


def _rule(line: str) -> Rule:
    scope, rest = _expression(line)
    found = _NAME.match(rest)
    verb = found[1] if found else ""
    rest = rest[found.end() :] if found else rest
    if verb in ("remove", "stop"):
        _ended(rest)
        return Rule(_whole(scope), verb)
    if verb == "replace":
        return _replace_rule(scope, rest)
    action, _, condition = verb.partition("_")
    forms = ("if", "if_found", "unless", "unless_found")
    if action not in ("remove", "stop") or condition not in forms:
        raise ValueError("unknown rule")
    expression, rest = _expression(rest)
    _ended(rest)
    anywhere = condition.endswith("_found")
    pattern = goregexp.compiled(expression) if anywhere else _whole(expression)
    return Rule(_whole(scope), verb.removesuffix("_found"), pattern.search)


def _replace_rule(scope: str, rest: str) -> Rule:
    wanted, rest = _expression(rest)
    if not rest.startswith(","):
        raise ValueError("replace wants two expressions with a comma between")
    template, rest = _expression(rest[1:], empty=True)
    _ended(rest)
    replace = goregexp.replacer(goregexp.compiled(wanted), template)
    return Rule(_whole(scope), "replace", replace=replace)


def _expression(text: str, *, empty: bool = False) -> tuple[str, str]:
    """Return the expression that a text begins with, and what follows."""
    text = text.lstrip()
    mark = text[:1]
    if not mark or mark not in DELIMITERS:
        raise ValueError(f"an expression stands between two of {' '.join(DELIMITERS)}")
    at = 1
    while (at := text.find(mark, at)) > 0:
        if text[at - 1] != "\\":
            break
        at += 1
    if at < 0:
        raise ValueError(f"the expression has no second {mark}")
    inner = text[1:at].replace(f"\\{mark}", mark)
    if not inner and not empty:
        raise ValueError("an expression is empty")
    return inner, text[at + 1 :]


def _ended(rest: str) -> None:
    if not _END.match(rest):
        raise ValueError(f"{rest.strip()!r} has no meaning there")


def _whole(expression: str) -> re.Pattern[str]:
    """Return what matches a whole text, as the reference takes that.

    Of alternatives without brackets only the first is held to the beginning, and only
    the last to the end: what operators have masked so far stays masked.
    """
    if expression in ("*", "+", "?"):
        raise ValueError(f"{expression!r} repeats nothing")
    start = "" if expression.startswith("^") else "^"
    end = "" if expression.endswith("$") else "$"
    return goregexp.compiled(f"{start}{expression}{end}")


def _is_pass(rule: Rule) -> bool:
    return rule.verb == "stop_unless"


def _plan(about: list[tuple[int, Rule]]) -> _Plan:
    rules = [rule for _, rule in about]
    return _Plan(
        stops=tuple(rule.test for rule in rules if rule.verb in ("stop", "stop_if")),
        passes=tuple(
            (number, rule.test)
            for number, rule in about
            if _is_pass(rule) and rule.test is not None
        ),
        removes=tuple(
            (rule.test, rule.verb == "remove_unless")
            for rule in rules
            if rule.verb.startswith("remove")
        ),
        replaces=tuple(rule.replace for rule in rules if rule.replace is not None),
    )


def _removed(plan: _Plan, value: str) -> bool:
    for test, unless in plan.removes:
        if test is None or bool(test(value)) != unless:
            return True
    return False


# The sets

_LOCAL_PART: Final = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    ".!#$%&\N{RIGHT SINGLE QUOTATION MARK}*+/=?^_`{|}~-"
)
_DOMAIN: Final = re.compile(r"@[a-zA-Z0-9-]++\.[a-zA-Z0-9-]++")
_NUMBER: Final = re.compile(r"[0-9.\-/]{9,}")
MASKED_ADDRESS: Final = "x@y.com"
MASKED_NUMBER: Final = "xyxy"


def masked_addresses(text: str) -> str:
    """Return a text with all that looks like an e-mail address masked.

    From each @ backwards: forwards, a long text without any would be tried from every
    one of its characters.
    """
    if "@" not in text:
        return text
    parts: list[str] = []
    done = 0
    looked_at = 0
    for found in _DOMAIN.finditer(text):
        at = found.start()
        between = text[max(done, looked_at) : at]
        local = len(between) - len(between.rstrip(_LOCAL_PART))
        looked_at = at
        if local:
            parts += (text[done : at - local], MASKED_ADDRESS)
            done = found.end()
    parts.append(text[done:])
    return "".join(parts)


def _masked_numbers(text: str) -> str:
    return _NUMBER.sub(MASKED_NUMBER, text)


def _cut_url(text: str) -> str:
    return text.partition("?")[0].partition(";")[0]


_TEXTS: Final = re.compile(r"^(?:request_body|request_param:.*|response_body)\Z")
STANDARD: Final = (
    Rule(
        re.compile(r"^(?:request_header:cookie|response_header:set-cookie)\Z"), "remove"
    ),
    Rule(_TEXTS, "replace", replace=masked_addresses),
    Rule(_TEXTS, "replace", replace=_masked_numbers),
)
STRICT: Final = (
    Rule(re.compile(r"^request_url\Z"), "replace", replace=_cut_url),
    Rule(
        re.compile(
            r"^(?:request_body|response_body|request_param:.*|request_header:user-agent.*"
            r"|response_header:content-(?:length|type).*)\Z"
        ),
        "remove",
    ),
)
