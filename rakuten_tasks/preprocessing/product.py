"""A product: the input of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

from rakuten_tasks.preprocessing.text import clean


@dataclass(frozen=True)
class Product:
    """The raw text, and the photo file's bytes or None."""

    designation: str = ""
    description: str = ""
    photo: bytes | None = None

    @property
    def has_text(self) -> bool:
        """Whether the cleaned text is not empty."""
        return bool(clean(self.designation) or clean(self.description))
