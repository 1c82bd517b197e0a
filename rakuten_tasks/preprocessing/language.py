"""Language of a product's text, among those in which French sellers write."""

from __future__ import annotations

from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

# py3langid has 140 languages, and mistakes short titles for rare ones.
LANGUAGES = ("fr", "en", "de", "es", "it", "nl", "pt")
UNDETERMINED = "und"
MIN_CONFIDENCE = 0.5


def language(text: str) -> str:
    """Detect one of LANGUAGES (ISO 639), or UNDETERMINED, as for names and numbers alone. text: cleaned."""
    return _identifier().classify(text)[0]


@cache
def _identifier() -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=MIN_CONFIDENCE)
    identifier.set_languages(LANGUAGES)
    return identifier
