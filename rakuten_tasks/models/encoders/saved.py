"""The JSON file by which a bundle describes its encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rakuten_tasks.config import Precision, Strict
from rakuten_tasks.models.pretrained import PretrainedWeights

FILE = "encoder.json"


@dataclass(frozen=True)
class SavedEncoder(Strict):
    """Settled values: none is left to be chosen where the bundle is loaded.

    max_characters: of a text that are read. prefix: put before each text. max_tokens and precision: of an hf: encoder.
    """

    weights: PretrainedWeights
    max_characters: int
    prefix: str = ""
    max_tokens: int = 0
    precision: Precision = Precision.AUTO

    def write(self, folder: Path) -> None:
        """Into the folder, which is made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> SavedEncoder:
        """Raises FileNotFoundError if nothing was saved there, ValueError if it is no such file."""
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(f"no {FILE} in {folder}: give the folder that the encoder was saved in")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} tells of no encoder ({error}): save the bundle again") from error


def sha256_of_file(path: Path) -> str:
    """Of the content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_files(hashes: Iterable[tuple[str, str]]) -> str:
    """One hash of several files, given as pairs of name and sha256, in whatever order."""
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in sorted(hashes)).encode()).hexdigest()


def cut(text: str, prefix: str, max_characters: int) -> str:
    """The prefix and the first `max_characters` of the text; nothing if the text is empty."""
    # half of a surrogate pair, which JSON can bring, is no Unicode: tokenizers refuse it
    kept = text[:max_characters].encode("utf-8", "replace").decode("utf-8")
    return prefix + kept if kept else ""
