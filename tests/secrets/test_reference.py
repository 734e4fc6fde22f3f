"""What a reference is, and what a pointer picks out of a secret."""

from __future__ import annotations

import pytest

from tyk_pump.errors import SecretError
from tyk_pump.secrets.reference import Reference, is_reference, parts, pick

R = Reference


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("kv://s/p", [R("s", "p")]),
        ("kv://s/a/b#c", [R("s", "a/b", "c")]),
        ("kv://s/a$kv{t:b}", [R("s", "a$kv{t:b}")]),
        ("kv://s//etc", [R("s", "/etc")]),
        ("kv://s/p#", [R("s", "p")]),
        ("$kv{s:p}", [R("s", "p")]),
        ("$kv{s:a:b#/c/d}", [R("s", "a:b", "/c/d")]),
        ("u:$kv{s:p}@$kv{t:q}/x", ["u:", R("s", "p"), "@", R("t", "q"), "/x"]),
        ("see $kv{s:p}kv://no", ["see ", R("s", "p"), "kv://no"]),
    ],
)
def test_forms(text: str, found: list[str | Reference]) -> None:
    """The whole form takes all that follows; the inline form stands anywhere."""
    assert is_reference(text)
    assert list(parts(text)) == found


@pytest.mark.parametrize("text", ["", "http://x?a=kv://s/p", "$kv", "kv:/s/p", "{s:p}"])
def test_other_texts(text: str) -> None:
    """What does not begin with kv:// and has no $kv{ is a text as any other."""
    assert not is_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        *("kv://", "kv://hunter2", "kv:///hunter2", "kv://hunter2/", "kv://hunter2/#x"),
        *("$kv{hunter2}", "$kv{:hunter2}", "$kv{hunter2:}", "a$kv{hunter2:x"),
        "$kv{s:p}$kv{hunter2",
    ],
)
def test_malformed(text: str) -> None:
    """A malformed reference is told without its words: one may be the secret."""
    with pytest.raises(SecretError) as caught:
        list(parts(text))
    assert "hunter2" not in str(caught.value)
    assert not caught.value.passing


DOCUMENT = (
    '{ "a": "x\\u00e9\\n", "n": 1.50, "e": 1e400, "t": true, "z": null, '
    '"o": { "k" : [ 1,  "two words" ] }, "a/b": 1, "m~n": 2, "": "nameless", '
    '"l": [ "first", {"k": "v"} ], "0": "zero" }'
)


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("", DOCUMENT),
        ("a", "xé\n"),
        ("/a", "xé\n"),
        ("n", "1.50"),
        ("e", "1e400"),
        ("t", "true"),
        ("z", "null"),
        ("o", '{"k":[1,"two words"]}'),
        ("o/k", '[1,"two words"]'),
        ("o/k/1", "two words"),
        ("a~1b", "1"),
        ("m~0n", "2"),
        ("/", "nameless"),
        ("l/0", "first"),
        ("l/1/k", "v"),
        ("0", "zero"),
    ],
)
def test_pointers(pointer: str, found: str) -> None:
    """A text is taken as it is; numbers keep their form, objects become compact."""
    assert pick(DOCUMENT, pointer) == found


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        *((DOCUMENT, p) for p in ("b", "l/2", "l/-", "l/01", "l/x", "a/0", "n/x", "A")),
        *((bad, "a") for bad in ("hunter2", '{"a": hunter2}', "", '{"a": "hunter2')),
        ("[" * 100_000, "0/0"),
        ('{"a": "\\ud800"}', "a"),
        ('"\ud800"', "a"),
    ],
)
def test_pointers_to_nothing(text: str, pointer: str) -> None:
    """Nothing of the secret stands in the error."""
    with pytest.raises(SecretError) as caught:
        pick(text, pointer)
    assert "hunter2" not in str(caught.value)
    assert "two words" not in str(caught.value)
