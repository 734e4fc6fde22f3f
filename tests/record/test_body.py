"""Raw bodies: what is base64 is decoded, what is none stays."""

from __future__ import annotations

import pytest

from tyk_pump.record.body import decoded, decoded_bytes


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", b""),
        ("aGk=", b"hi"),
        ("aG\r\nk=\n", b"hi"),
        ("/w==", b"\xff"),
        ("aGk", b"aGk"),
        ("GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"),
        ("aGk=rest", b"aGk=rest"),
        ("\udcff\u00e9", b"\xff\xc3\xa9"),
    ],
)
def test_text_and_bytes_agree(text: str, data: bytes) -> None:
    """Both forms take the same texts for base64, and lose no byte of the others."""
    assert decoded_bytes(text) == data
    assert decoded(text).encode("utf-8", "surrogateescape") == data
