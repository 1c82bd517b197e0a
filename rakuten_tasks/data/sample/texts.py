"""French product texts of the synthetic sample: a small grammar (words.yaml) and sellers' noise."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

WORDS = Path(__file__).with_name("words.yaml")
SLOT = re.compile(r"\{(?:(\d+)-(\d+)|(\w+))\}")

# shares as in the challenge (its repository lists and papers; the rest of the languages in two others)
MISSING_DESCRIPTIONS = 0.35
LANGUAGES = {"fr": 0.76, "en": 0.15, "de": 0.03, "es": 0.03, "it": 0.03}
HTML_TITLES, HTML_DESCRIPTIONS = 0.012, 0.47
BROKEN_CHARACTERS = 0.03
TYPOS, NO_ACCENTS, CAPITALS = 0.10, 0.06, 0.05

# probability that a text uses a rule of its class, rather than one of its group
CLEAR, VAGUE = 0.92, 0.25
VAGUE_SHARE, BLANK_SHARE = 0.15, 0.07  # of products; a blank title has a brand and a reference only

# rules whose text is chosen once for a product, so that title and description agree
FIXED_RULES = {"thing", "brand", "reference", "colour", "work", "author"}

Rules = dict[str, list[str]]


@dataclass(frozen=True)
class Text:
    """Text of a product. description: "" if the seller wrote none."""

    designation: str
    description: str
    language: str


@cache
def _words() -> dict[str, Any]:
    return yaml.safe_load(WORDS.read_text(encoding="utf-8"))


def class_names() -> dict[int, str]:
    """Return the challenge's 27 codes, ascending, with a name for people."""
    return {code: _words()["classes"][code]["name"] for code in sorted(_words()["classes"])}


def class_sizes() -> dict[int, int]:
    """Return the number of products in the challenge by code."""
    return {code: _words()["classes"][code]["products"] for code in class_names()}


def write_text(code: int, random: Random) -> Text:
    """Return a title, and usually a description, of a product of this class."""
    language = random.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
    clear_share = 1 - VAGUE_SHARE - BLANK_SHARE
    title, body, clarity = random.choices(
        (("title", "description", CLEAR), ("title", "description", VAGUE), ("blank_title", "blank", 0.0)),
        (clear_share, VAGUE_SHARE, BLANK_SHARE),
    )[0]
    grammar = Grammar(_levels(code, language), clarity, random)
    designation = _add_typos(grammar.text(title), random)
    description = "" if random.random() < MISSING_DESCRIPTIONS else _add_typos(grammar.text(body), random)
    if random.random() < HTML_TITLES:
        designation = _escape(designation, random)
    if description and random.random() < HTML_DESCRIPTIONS:
        description = _add_markup(description, random)
    return Text(designation, description, language)


def _levels(code: int, language: str) -> list[Rules]:
    """Return the rules of the class, its group, its language and all texts, the most specific first."""
    words = _words()
    product_class = words["classes"][code]
    group = words["groups"][product_class["group"]]
    return [product_class[language], group.get(language, {}), words["languages"][language], words["common"]]


class Grammar:
    """Grammar of one product. levels: rules of its class, used with probability `clarity`, then more general ones."""

    def __init__(self, levels: Sequence[Rules], clarity: float, random: Random) -> None:
        self._levels, self._clarity, self._random = levels, clarity, random
        self._fixed_texts: dict[str, str] = {}
        self._used_texts: set[str] = set()

    def text(self, rule: str) -> str:
        """Return a text of a rule with every slot filled; each sentence starts with a capital letter."""
        self._used_texts.clear()
        text = self._fill(f"{{{rule}}}")
        return re.sub(r"(^|\. )(\w)", lambda start: start[1] + start[2].upper(), text)

    def _fill(self, pattern: str) -> str:
        return SLOT.sub(lambda slot: self._fill_slot(*slot.groups()), pattern)

    def _fill_slot(self, low: str | None, high: str | None, rule: str) -> str:
        if low and high:
            return str(self._random.randint(int(low), int(high)))
        if rule in self._fixed_texts:
            return self._fixed_texts[rule]
        text = self._fill(self._choose(rule))
        if rule in FIXED_RULES:
            self._fixed_texts[rule] = text
        return text

    def _choose(self, rule: str) -> str:
        """Return a text of a rule, if possible one that this title or description does not have yet."""
        clear = self._random.random() < self._clarity
        own, *shared = self._levels
        # a rule that only the class has is used in any case
        levels = (own, *shared) if clear else (*shared, own)
        texts = next(level[rule] for level in levels if rule in level)
        text = self._random.choice([text for text in texts if text not in self._used_texts] or texts)
        self._used_texts.add(text)
        return text


def _add_typos(text: str, random: Random) -> str:
    if random.random() < TYPOS:
        text = _add_typo(text, random)
    if random.random() < NO_ACCENTS:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    if random.random() < CAPITALS:
        text = text.upper()
    if random.random() < BROKEN_CHARACTERS:
        # sellers' tools lose apostrophes, ligatures and dashes
        text = re.sub("['œ«»–]|é(?=\\b)", "¿", text)
    return text


def _add_typo(text: str, random: Random) -> str:
    """Swap two letters, drop one, or double one, inside a word of five letters or more."""
    places = [word.start() + 1 for word in re.finditer(r"[^\W\d_]{5,}", text)]
    if not places:
        return text
    at = random.choice(places)
    pair = text[at : at + 2]
    return text[:at] + random.choice((pair[::-1], pair[0], pair[0] + pair)) + text[at + 2 :]


def _escape(text: str, random: Random) -> str:
    """Replace characters by entities, half of the time escaped twice, as `&amp;nbsp;`."""
    nbsp, acute = random.choice((("&nbsp;", "&eacute;"), ("&amp;nbsp;", "&amp;eacute;")))
    return text.replace(" ", nbsp, 1).replace("é", acute).replace("'", "&#39;")


def _add_markup(text: str, random: Random) -> str:
    """Add tags around sentences, and often entities, as shops' editors do."""
    if random.random() < 0.6:
        text = _escape(text, random)
    sentences = text.split(". ")
    return random.choice(
        (
            "<p>" + ".</p><p>".join(sentences) + "</p>",
            ".<br />".join(sentences) + "<br />",
            "<ul><li>" + "</li><li>".join(sentences) + "</li></ul>",
            "<b>" + sentences[0] + "</b><br>" + ". ".join(sentences[1:]),
            '<div class="description">' + ".<br>&nbsp;".join(sentences) + "</div>",
        )
    )
