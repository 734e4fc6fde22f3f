"""Texts of records: those whose bytes were no UTF-8 carry lone surrogates."""

from __future__ import annotations

import re
from typing import Final

SURROGATES: Final = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return a text with U+FFFD for each byte that was no UTF-8."""
    return text if text.isascii() else SURROGATES.sub("\ufffd", text)
