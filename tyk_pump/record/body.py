"""Raw bodies: the gateway sends a call's request and response in base64."""

from __future__ import annotations

import binascii


def decoded(text: str) -> str:
    """Return what a text means in base64, or itself where it is none."""
    plain = text
    if "\n" in text or "\r" in text:
        plain = text.replace("\n", "").replace("\r", "")
    try:
        data = binascii.a2b_base64(plain, strict_mode=True)
    except ValueError:
        return text
    return data.decode("utf-8", "surrogateescape")
