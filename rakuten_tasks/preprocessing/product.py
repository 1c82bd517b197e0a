"""A product as it arrives."""

from __future__ import annotations

from dataclasses import dataclass

from rakuten_tasks.preprocessing.text import clean


@dataclass(frozen=True)
class Product:
    """Text as written, the photo file's bytes or None."""

    designation: str = ""
    description: str = ""
    photo: bytes | None = None

    @property
    def has_text(self) -> bool:
        """Whether anything is left of the text once it is cleaned."""
        return bool(clean(self.designation) or clean(self.description))
