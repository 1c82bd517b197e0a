"""Language of a product's text, among those that French sellers write in."""

from __future__ import annotations

from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

# py3langid knows 140 languages and takes short titles for rare ones.
LANGUAGES = ("fr", "en", "de", "es", "it", "nl", "pt")
UNDETERMINED = "und"
MIN_CONFIDENCE = 0.5


def language(text: str) -> str:
    """One of LANGUAGES, by ISO 639, or UNDETERMINED: names and numbers alone have none. text: cleaned."""
    return _identifier().classify(text)[0]


@cache
def _identifier() -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=MIN_CONFIDENCE)
    identifier.set_languages(LANGUAGES)
    return identifier
