"""Sellers' HTML to plain text."""

from __future__ import annotations

import html
import re
import unicodedata

# HTML's attributes that need no value. `a<b et c>d` has no attribute, so it is no tag.
BARE_ATTRIBUTE = (
    r"(?:allowfullscreen|async|autofocus|autoplay|border|checked|compact|controls|data-[\w-]+|default|defer|disabled|"
    r"hidden|ismap|loop|multiple|muted|noresize|noshade|novalidate|nowrap|open|readonly|required|reversed|selected)"
)
# `<` before a blank, a digit or a sign is a comparison, a heart or an arrow. Possessive quantifiers (`*+`) keep the
# time linear in the length of the text.
TAG = re.compile(
    rf"""
    <!--[^<]*?-->                                       # comments
    | <[!?/][a-z[-][^<>]*+>                             # declarations, <?xml ...>, ends of elements
    | <!\[CDATA\[ | \]\]>                                # the marks of a text in XML
    | (?<!<)<[a-z][\w:.-]*+                             # starts of elements, but not of <<quotes>>
      (?:\s++{BARE_ATTRIBUTE}(?=[\s/>]))*+
      (?:
        \s*+/?\s*+>
        | \s++[^\s<>"'=/]++(?==|\s++=)                  # an attribute with a value, then anything, as `>` in quotes
          (?:(?:=\s*+"[^"<]*+"|=\s*+'[^'<]*+'|[^<>])*+>|[^<>]*+>)
      )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# The texts of scripts and styles are never shown. A body ends at the next start of one, which keeps the time linear.
UNSHOWN = re.compile(r"<(script|style)\b[^<>]*+>(?:[^<]++|<(?!/?(?:script|style)\b))*+</\1\s*+>", re.IGNORECASE)
SPACE = re.compile(r"\s+")
# Unicode's Default_Ignorable_Code_Point (https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt),
# such as soft hyphens, zero-width spaces, direction marks and variation selectors, then annotations and controls.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\0-\x08\x0e-\x1b\x7f]"
)
# Controls of Latin-1, as a wrong encoding leaves them in place of letters, and signs for what could not be read.
BROKEN = re.compile("[\x80-\x9f¿\u2800\ufffc\ufffd]")


def clean(text: str) -> str:
    """Convert to plain text, on one line, in NFKC, without tags, broken characters and what shows nothing.

    Entities are unescaped twice: sellers' tools escape twice, &amp;nbsp; is in 47 % of the challenge's descriptions.
    """
    if "&" in text:
        text = html.unescape(html.unescape(text))
    text = unicodedata.normalize("NFC", INVISIBLE.sub("", text))  # NFKC would make tags of full-width signs
    if "<" in text:
        text = TAG.sub(" ", UNSHOWN.sub(" ", text))
    text = BROKEN.sub(" ", unicodedata.normalize("NFKC", text))
    return SPACE.sub(" ", text).strip()
