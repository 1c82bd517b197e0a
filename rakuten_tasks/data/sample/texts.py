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

# how often a text says what only its class says, rather than what its whole group says
CLEAR, VAGUE = 0.92, 0.25
VAGUE_SHARE, BLANK_SHARE = 0.15, 0.07  # of products; a blank one names a brand and a reference only

# chosen once for a product, so that its description speaks of what its title names
SETTLED = {"thing", "brand", "reference", "colour", "work", "author"}

Rules = dict[str, list[str]]


@dataclass(frozen=True)
class Text:
    """What a seller wrote, and in which language. description: "" where the seller left it out."""

    designation: str
    description: str
    language: str


@cache
def _words() -> dict[str, Any]:
    return yaml.safe_load(WORDS.read_text(encoding="utf-8"))


def class_names() -> dict[int, str]:
    """The challenge's 27 codes with a name for people, in ascending order."""
    return {code: _words()["classes"][code]["name"] for code in sorted(_words()["classes"])}


def class_sizes() -> dict[int, int]:
    """Code -> how many products the challenge has of it."""
    return {code: _words()["classes"][code]["products"] for code in class_names()}


def write_text(code: int, random: Random) -> Text:
    """A title, and most often a description, of a product of this class."""
    language = random.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
    clear_share = 1 - VAGUE_SHARE - BLANK_SHARE
    title, body, clarity = random.choices(
        (("title", "description", CLEAR), ("title", "description", VAGUE), ("blank_title", "blank", 0.0)),
        (clear_share, VAGUE_SHARE, BLANK_SHARE),
    )[0]
    grammar = Grammar(_levels(code, language), clarity, random)
    designation = _mistyped(grammar.text(title), random)
    description = "" if random.random() < MISSING_DESCRIPTIONS else _mistyped(grammar.text(body), random)
    if random.random() < HTML_TITLES:
        designation = _escaped(designation, random)
    if description and random.random() < HTML_DESCRIPTIONS:
        description = _marked_up(description, random)
    return Text(designation, description, language)


def _levels(code: int, language: str) -> list[Rules]:
    """The rules of the class, its group, its language and all texts: the most specific first."""
    words = _words()
    product_class = words["classes"][code]
    group = words["groups"][product_class["group"]]
    return [product_class[language], group.get(language, {}), words["languages"][language], words["common"]]


class Grammar:
    """Texts about one product, from levels of rules: its class's own, used with a share `clarity`, then wider ones."""

    def __init__(self, levels: Sequence[Rules], clarity: float, random: Random) -> None:
        self._levels, self._clarity, self._random = levels, clarity, random
        self._settled: dict[str, str] = {}
        self._said: set[str] = set()

    def text(self, rule: str) -> str:
        """One of the texts of a rule with every slot filled; each sentence starts with a capital letter."""
        self._said.clear()
        text = self._filled(f"{{{rule}}}")
        return re.sub(r"(^|\. )(\w)", lambda start: start[1] + start[2].upper(), text)

    def _filled(self, pattern: str) -> str:
        return SLOT.sub(lambda slot: self._slot(*slot.groups()), pattern)

    def _slot(self, low: str | None, high: str | None, rule: str) -> str:
        if low and high:
            return str(self._random.randint(int(low), int(high)))
        if rule in self._settled:
            return self._settled[rule]
        text = self._filled(self._choice(rule))
        if rule in SETTLED:
            self._settled[rule] = text
        return text

    def _choice(self, rule: str) -> str:
        """One of a rule's texts, where there is one that this title or description does not have yet."""
        clear = self._random.random() < self._clarity
        own, *shared = self._levels
        # a rule that only the class has is taken from there all the same
        levels = (own, *shared) if clear else (*shared, own)
        texts = next(level[rule] for level in levels if rule in level)
        text = self._random.choice([text for text in texts if text not in self._said] or texts)
        self._said.add(text)
        return text


def _mistyped(text: str, random: Random) -> str:
    if random.random() < TYPOS:
        text = _one_typo(text, random)
    if random.random() < NO_ACCENTS:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    if random.random() < CAPITALS:
        text = text.upper()
    if random.random() < BROKEN_CHARACTERS:
        # sellers' tools lose apostrophes, ligatures and dashes on the way
        text = re.sub("['œ«»–]|é(?=\\b)", "¿", text)
    return text


def _one_typo(text: str, random: Random) -> str:
    """Two letters swapped, one dropped, or one doubled, inside a word of five letters or more."""
    places = [word.start() + 1 for word in re.finditer(r"[^\W\d_]{5,}", text)]
    if not places:
        return text
    at = random.choice(places)
    pair = text[at : at + 2]
    return text[:at] + random.choice((pair[::-1], pair[0], pair[0] + pair)) + text[at + 2 :]


def _escaped(text: str, random: Random) -> str:
    """With entities, half of the time escaped twice, as `&amp;nbsp;`."""
    nbsp, acute = random.choice((("&nbsp;", "&eacute;"), ("&amp;nbsp;", "&amp;eacute;")))
    return text.replace(" ", nbsp, 1).replace("é", acute).replace("'", "&#39;")


def _marked_up(text: str, random: Random) -> str:
    """As shops' editors store it: tags around sentences, often entities too."""
    if random.random() < 0.6:
        text = _escaped(text, random)
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
