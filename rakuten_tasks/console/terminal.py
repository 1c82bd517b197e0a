"""Makes whatever is printed printable: ASCII for the characters that a stream's encoding does not have."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

HANDLER = "to_ascii"
ASCII = "ascii_text"  # ASCII by another name: click writes UTF-8 to a stream whose encoding is named ascii
# Characters of reports and messages that Unicode does not decompose into ASCII. Bars: more ink, more value.
SIGNS = str.maketrans(
    {**dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)), **dict(zip("–—‘’“”«»·•×", '--\'\'""""**x', strict=True))}
    | {"→": "->", "←": "<-", "≤": "<=", "≥": ">=", "±": "+-", "€": "EUR", "œ": "oe", "Œ": "OE", "æ": "ae", "Æ": "AE"}
    | {"ß": "ss", "…": ".", "░": ".", "▒": ":", "▓": "#"}
)


def prepare_streams() -> None:
    """Make stdout and stderr write ASCII for what their encoding lacks, as é in ASCII or half a surrogate in UTF-8."""
    codecs.register_error(HANDLER, _replace)
    codecs.register(_find_codec)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=ASCII if is_ascii else None, errors=HANDLER)


def to_ascii(text: str) -> str:
    """Return the text without accents, signs as their nearest ASCII, and ? for other characters."""
    plain = []
    for character in text:
        letters = unicodedata.normalize("NFKD", character.translate(SIGNS)).encode("ascii", "ignore").decode()
        plain.append(letters or ("" if unicodedata.combining(character) else "?"))
    return "".join(plain)


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != ASCII:
        return None
    codec = codecs.lookup("ascii")
    return codecs.CodecInfo(
        name=ASCII,
        encode=codec.encode,
        decode=codec.decode,
        incrementalencoder=codec.incrementalencoder,
        incrementaldecoder=codec.incrementaldecoder,
    )


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return to_ascii(error.object[error.start : error.end]), error.end
