"""The JSON file by which a bundle describes its encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rakuten_tasks.config import Precision
from rakuten_tasks.config_base import Strict
from rakuten_tasks.models.pretrained import PretrainedWeights

FILE = "encoder.json"


@dataclass(frozen=True)
class EncoderSettings(Strict):
    """All settings of an encoder, with defaults resolved.

    max_characters: of a text that are read. prefix: put before each text. max_tokens and precision: of an hf: encoder.
    """

    weights: PretrainedWeights
    max_characters: int
    prefix: str = ""
    max_tokens: int = 0
    precision: Precision = Precision.AUTO

    def truncate(self, texts: Sequence[str]) -> list[str]:
        """Return the prefix and the first characters of each text; an empty text stays empty."""
        # half of a surrogate pair, which JSON can contain, is not Unicode: tokenizers refuse it
        beginnings = [text[: self.max_characters].encode("utf-8", "replace").decode("utf-8") for text in texts]
        return [self.prefix + text if text else "" for text in beginnings]

    def write(self, folder: Path) -> None:
        """Write encoder.json into the folder, which is created if it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read encoder.json. Raises FileNotFoundError if there is none, ValueError if it has other content."""
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(f"no {FILE} in {folder}: give the folder that the encoder was saved in")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} describes no encoder ({error}): save the bundle again") from error
