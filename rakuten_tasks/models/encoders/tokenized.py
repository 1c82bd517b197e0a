"""Texts -> token ids by an encoder's own tokenizer, without the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from transformers import PreTrainedTokenizerBase

from rakuten_tasks.models.encoders.model_folder import ModelFolder
from rakuten_tasks.models.encoders.saved import SavedEncoder, cut
from rakuten_tasks.models.encoders.transformer_parts import read_tokenizer


class TokenizedText:
    """tokenizer: of the model; config: what was settled of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: SavedEncoder) -> None:
        self.tokenizer, self.config = tokenizer, config

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """(N,) clean texts -> each one's ids, prefixed and truncated as the encoder reads it."""
        kept = [cut(text, self.config.prefix, self.config.max_characters) for text in texts]
        return self.tokenizer(kept, truncation=True, max_length=self.config.max_tokens)["input_ids"]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder that an encoder was saved in; its weights may be missing."""
        config = SavedEncoder.read(folder)
        return cls(read_tokenizer(ModelFolder(folder.resolve(), config.weights.name)), config)
