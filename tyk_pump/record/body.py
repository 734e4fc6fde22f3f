"""Raw bodies: the gateway sends a call's request and response in base64."""

from __future__ import annotations

import binascii
import re
from typing import Final

_SOUND: Final = re.compile(
    "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
)


def decoded(text: str) -> str:
    """Return what a text means in base64, or itself where it is none."""
    data = _data(text)
    return text if data is None else data.decode("utf-8", "surrogateescape")


def decoded_bytes(text: str) -> bytes:
    """Return the bytes that a text means in base64, or its own where it is none."""
    data = _data(text)
    return text.encode("utf-8", "surrogateescape") if data is None else data


def _data(text: str) -> bytes | None:
    if "\n" in text or "\r" in text:
        text = text.replace("\n", "").replace("\r", "")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None


def decoded_part(text: str) -> str:
    """Return what a text means in base64, up to where it stops being any."""
    plain = text.replace("\n", "").replace("\r", "")
    sound = _SOUND.match(plain)
    assert sound is not None
    return binascii.a2b_base64(sound[0]).decode("utf-8", "surrogateescape")
