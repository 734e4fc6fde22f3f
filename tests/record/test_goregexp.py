"""Go's regular expressions: the same matches, and the same refusals."""

from __future__ import annotations

import pytest

from tyk_pump.record.goregexp import Unfit, compiled, replacer


@pytest.mark.parametrize(
    ("expression", "text", "found"),
    [
        ("x$", "x\n", None),
        ("(?m)x$", "x\n", "x"),
        ("(?m:x$)$", "x\n", None),
        ("a(?i)b|c", "C", "C"),
        ("(a(?i)b|c)d", "CD", None),
        ("(a(?i)b|c)d", "Cd", "Cd"),
        ("(?i:a)B", "Ab", None),
        (r"\d+", "٣3", "3"),
        (r"\w+", "é", None),
        (r"\s", "\v", None),
        (r"[^\S]", "\v", None),
        (r"[\S]", "\v", "\v"),
        ("[[:alpha:]]+", "12ab", "ab"),
        ("[[:punct:]]", "a]", "]"),
        (r"\Q.*\E+", "a.**", ".**"),
        (r"\x{1F680}\x41\101", "🚀AA", "🚀AA"),
        ("(?P<n>a)(?<m>b)", "ab", "ab"),
        ("a{,2}", "a{,2}", "a{,2}"),
        ("{", "{", "{"),
        ("[]a]+", "]a", "]a"),
        ("[&&~~||[a]+", "&~|[a", "&~|[a"),
        (r"\z", "\n", ""),
        (r"a\/b", "a/b", "a/b"),
    ],
)
def test_matches(expression: str, text: str, found: str | None) -> None:
    """What Go finds is found, and nothing else."""
    match = compiled(expression).search(text)
    assert (match[0] if match else None) == found


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("a++", "nested repetition"),
        ("a**", "nested repetition"),
        ("a{1001}", "repeat count"),
        ("(?=a)", "no group like"),
        ("(?<!a)b", "no group like"),
        (r"(a)\1", r"invalid escape sequence \\1"),
        (r"\Z", r"invalid escape sequence \\Z"),
        (r"[\b]", r"invalid escape sequence \\b"),
        (r"\pL", "not supported"),
        ("(?U)a*", "flags"),
        ("(?x)a", "flags"),
        ("(a", r"missing closing \)"),
        ("a)", r"unexpected \)"),
        ("[a", "missing closing ]"),
        ("[[:none:]]", "invalid character class"),
        (r"\x{110000}", "invalid escape"),
        (r"\xg", "invalid escape"),
        ("a\\", "trailing backslash"),
        ("*", "nothing to repeat"),
        ("[b-a]", "bad character range"),
    ],
)
def test_refusals(expression: str, reason: str) -> None:
    """What Go refuses, or `re` has no words for, is refused with a reason."""
    with pytest.raises(Unfit, match=reason):
        compiled(expression)


@pytest.mark.parametrize(
    ("expression", "template", "text", "replaced"),
    [
        (".*", "x", "hello", "x"),
        ("a*", "x", "baac", "xbxcx"),
        ("|b", "x", "ab", "xaxbx"),
        ("(a)(b)?", "[$2${1}]", "aba", "[ba][a]"),
        ("(?P<who>a)", "<$who>", "a", "<a>"),
        ("a", "$1x|$9|$none|$0", "a", "|||a"),
        ("a", r"$$\1\n", "a", r"$\1\n"),
        ("a", "", "banana", "bnn"),
    ],
)
def test_replacements(expression: str, template: str, text: str, replaced: str) -> None:
    """Templates are Go's, and so is what becomes of empty matches."""
    replace = replacer(compiled(expression), template)
    assert replace(text) == replaced
    assert replace(text) == replaced
