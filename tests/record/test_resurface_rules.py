"""Resurface's rules: what is kept back, removed and masked, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tyk_pump.record.resurface_rules import Fault, Rules, masked_addresses, text_of

DETAILS = [
    ("request_method", "POST"),
    ("request_url", "http://a.b/c?d=e;f"),
    ("request_body", ""),
    ("request_header:cookie", "sid=1"),
    ("request_header:user-agent", "curl"),
    ("request_param:mail", "me@example.com"),
    ("request_param:card", "4111-1111-1111"),
    ("response_header:content-type", "text/plain"),
    ("response_body", "to joe@example.com and 555.555.555"),
]
NAMES = [name for name, value in DETAILS if value]


def told(rules: str) -> dict[str, str]:
    """Return what rules leave of the details."""
    return dict(Rules(rules).apply(DETAILS))


def left(rules: str) -> set[str]:
    """Return the names that rules take away."""
    return set(NAMES) - set(told(rules))


def test_no_rules_but_a_switch() -> None:
    """All is told that is not empty."""
    assert told("allow_http_url") == {k: v for k, v in DETAILS if v}
    assert told("# only a comment") == {k: v for k, v in DETAILS if v}


@pytest.mark.parametrize(
    "rules", ["", " \n ", "include strict", "include default # x", "\tinclude  strict"]
)
def test_strict_rules(rules: str) -> None:
    """They are what no rules mean, and keep the URL up to its query."""
    found = told(rules)
    assert found == {
        "request_method": "POST",
        "request_url": "http://a.b/c",
        "request_header:cookie": "sid=1",
    }


def test_standard_rules() -> None:
    """Cookies go; addresses and numbers are masked, in parameters too."""
    found = told("include standard")
    assert "request_header:cookie" not in found
    assert found["request_param:mail"] == "x@y.com"
    assert found["request_param:card"] == "xyxy"
    assert found["response_body"] == "to x@y.com and xyxy"
    assert found["request_url"] == "http://a.b/c?d=e;f"


def test_debug_rules() -> None:
    """http is allowed and every cookie is copied."""
    rules = Rules("include debug")
    assert rules.switches == {"allow_http_url"}
    assert [bool(pattern.search("any")) for pattern in rules.session] == [True]


def test_a_comment_includes_nothing() -> None:
    """The reference expands the words wherever they stand."""
    assert Rules("allow_http_url # not include debug").session == []


@pytest.mark.parametrize(
    ("rule", "gone"),
    [
        ("/request_body/ remove", set()),
        ("!response_body! remove", {"response_body"}),
        ("%request_param:.*%remove # a comment", {NAMES[4], NAMES[5]}),
        ("~.*~ remove_if ~curl~", {"request_header:user-agent"}),
        ("~.*~ remove_if ~cur~", set()),
        ("|.*| remove_if_found |cur|", {"request_header:user-agent"}),
        (r"|.*| remove_if_found |cur\|POS|", {NAMES[0], NAMES[3]}),
        ("/request_p.*/ remove_unless /4111.*/", {"request_param:mail"}),
        ("/request_p.*/ remove_unless_found /@/", {"request_param:card"}),
        # Of alternatives only the ends are held, as ever.
        ("/request_x|param|z/ remove", {NAMES[4], NAMES[5]}),
        ("/request_(x|param)/ remove", set()),
    ],
)
def test_remove(rule: str, gone: set[str]) -> None:
    """Details that a rule names, on its condition."""
    assert left(rule) == gone


@pytest.mark.parametrize(
    ("rule", "stops"),
    [
        ("/request_param:mail/ stop", True),
        ("/request_param/ stop", False),
        ("/request_body/ stop", True),
        ("/request_method/ stop_if /POST/", True),
        ("/request_method/ stop_if /POS/", False),
        ("/request_method/ stop_if_found /POS/", True),
        ("/request_method/ stop_unless /POS/", True),
        ("/request_method/ stop_unless /POST/", False),
        ("/request_method/ stop_unless_found /POS/", False),
        ("/x/ stop_unless /.*/", True),
        # Two details that fulfil one rule do not stand for another rule.
        ("/request_param:.*/ stop_unless /.*/\n/x/ stop_unless /y/", True),
        ("/request_param:.*/ stop_unless /.*/", False),
    ],
)
def test_stop(rule: str, stops: bool) -> None:
    """A message as a whole is kept back."""
    assert (told(rule) == {}) == stops


def test_replace() -> None:
    """One after the other, with groups; what becomes empty is not told."""
    rules = r"""
        /request_method/ replace /P(.)ST/, /$1$1/
        /request_method/ replace /O/, /0/
        ~request_header:cookie~ replace ~sid~,   !/!
        /request_header:user-agent/ replace /.*/, //
        /response_body/ replace /joe(@)/, /\/$1/
    """
    found = told(rules)
    assert found["request_method"] == "00"
    assert found["request_header:cookie"] == "/=1"
    assert "request_header:user-agent" not in found
    assert found["response_body"] == "to /@example.com and 555.555.555"


def test_nothing_left() -> None:
    """A message of which all is removed is no message."""
    assert told("/.*/ remove") == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "unknown rule"),
        ("/a/ destroy", "unknown rule"),
        ("/a/ remove_if_not /b/", "unknown rule"),
        ("sample 0", "from 1 to 99"),
        ("sample 100", "from 1 to 99"),
        ("sample x", "from 1 to 99"),
        ("sample 5 6", "has no meaning"),
        ("include everything", "there are the sets"),
        ("include", "there are the sets"),
        ("copy_session_field sid", "stands between two"),
        ("copy_session_field /sid/ x", "has no meaning"),
        ("allow_http_url now", "has no meaning"),
        ("/a remove", "no second /"),
        ("// remove", "is empty"),
        ("/a/ remove_if //", "is empty"),
        ("/a/b/ remove", "unknown rule"),
        ("/a/ replace /b/ /c/", "a comma between"),
        ("/a/ replace /b/, c", "stands between two"),
        ("/*/ remove", "repeats nothing"),
        ("/(/ remove", "missing closing"),
        ("/a/ remove_if_found /(?=b)/", "Go has no group"),
    ],
)
def test_rules_that_cannot_be_followed(line: str, reason: str) -> None:
    """The line is named, by number and by word."""
    with pytest.raises(Fault, match=reason) as caught:
        Rules(f"# one\r\nskip_compression\n  {line}")
    assert str(caught.value).startswith("line 3: ")
    assert line in str(caught.value)


def test_sample_stands_once() -> None:
    """Two would be one too many."""
    assert Rules("sample 7").sample == 7
    with pytest.raises(Fault, match="line 2: sample may stand there once"):
        Rules("sample 7\nsample 8")


def test_rules_of_a_file(tmp_path: Path) -> None:
    """The option may name a file."""
    path = tmp_path / "rules.txt"
    path.write_text("include debug")
    assert text_of(f"file://{path} ") == "include debug"
    assert text_of("include debug") == "include debug"
    with pytest.raises(Fault, match=r"none\.txt: No such file"):
        text_of(f"file://{tmp_path}/none.txt")
    path.write_bytes(b"\xff")
    with pytest.raises(Fault, match="no UTF-8"):
        text_of(f"file://{path}")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("", ""),
        ("@", "@"),
        ("@a.b", "@a.b"),
        ("a@b", "a@b"),
        ("a@b.c", "x@y.com"),
        ("<a@b.c.d>", "<x@y.com.d>"),
        ("a@b.c@d.e", "x@y.com@d.e"),
        ("a@b.c.f@d.e", "x@y.comx@y.com"),
        ("a@@b.c d@e.f", "a@@b.c x@y.com"),
        ("ä.b+c@d-e.fg,", "äx@y.com,"),
    ],
)
def test_masked_addresses(text: str, masked: str) -> None:
    """What looks like an address, from the left, none twice."""
    assert masked_addresses(text) == masked


def test_masking_takes_no_time() -> None:
    """A body of a mebibyte without any address, and one that is nearly all of them."""
    long = "a" * 2**20
    assert masked_addresses(f"{long} @") == f"{long} @"
    assert masked_addresses("@" * 2**20) == "@" * 2**20
    assert masked_addresses("a@b" * 2**18) == "a@b" * 2**18


def test_names_are_not_remembered_without_end() -> None:
    """Callers make up parameters; the memory of them is bounded."""
    rules = Rules("/request_param:x.*/ remove")
    for number in range(10_000):
        name = f"request_param:{'xy'[number % 2]}{number}"
        assert bool(rules.apply([(name, "1")])) == bool(number % 2)
    assert len(rules._plans) <= 4096
