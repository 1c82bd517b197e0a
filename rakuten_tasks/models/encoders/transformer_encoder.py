"""Encoders `hf:NAME_OR_FOLDER`: language models of transformers, from a folder or a hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rakuten_tasks.config import TextConfig
from rakuten_tasks.models.encoders import pooling
from rakuten_tasks.models.encoders.settings import EncoderSettings
from rakuten_tasks.models.encoders.transformer_settings import TEXT_ENCODER, read_settings, read_tokenizer
from rakuten_tasks.models.model_folder import ModelFolder, find_model
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.training.hardware import autocast
from rakuten_tasks.training.oom import MicrobatchRunner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS_AT_ONCE = 4096  # tokenized and sorted before they are encoded
# Texts are batched with others of the same length, rounded up to this: then a text's own padding is the same alone and
# in any batch, and so are its bits on a CPU, in bf16 too, where other padding moves numbers by 0.0009.
MULTIPLE = 8


@dataclass(frozen=True)
class EncoderTokenizer:
    """Texts -> token ids, without the encoder's network."""

    tokenizer: PreTrainedTokenizerBase
    settings: EncoderSettings

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize (N,) clean texts -> each one's ids, with the prefix, truncated to max_tokens."""
        truncated = self.settings.truncate(texts)
        return self.tokenizer(truncated, truncation=True, max_length=self.settings.max_tokens)["input_ids"]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load from a folder that an encoder was saved in; its weights may be missing."""
        settings = EncoderSettings.read(folder)
        return cls(read_tokenizer(ModelFolder(TEXT_ENCODER, folder.resolve(), settings.weights.name)), settings)


class TransformerEncoder:
    """model: may be trained; set fine_tuned then, so that `save` writes its weights. size: numbers of a vector."""

    def __init__(self, folder: ModelFolder, config: EncoderSettings, batch_size: int, device: torch.device) -> None:
        self.folder, self.config, self.weights = folder, config, config.weights
        self.tokenizer = read_tokenizer(folder)
        network, _ = folder.read_network()
        self.modes = pooling.pooling_modes(folder.path)
        self.size = int(network.config.hidden_size) * len(self.modes)
        self.model: nn.Module = network.eval().to(device)
        self.fine_tuned = False
        self.batch_size = MicrobatchRunner(batch_size, f"encoder {self.weights.name}")

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray:
        """Encode (N,) clean texts -> (N, size) fp32 of unit length; zeros for an empty text.

        A batch that does not fit into memory is halved. Raises MemoryError if one text does not fit.
        """
        self.model.eval()
        vectors = np.zeros((len(texts), self.size), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            rows = np.array([row for row in range(start, min(start + TEXTS_AT_ONCE, len(texts))) if texts[row]], int)
            if len(rows):
                tokens = self.token_ids([texts[row] for row in rows])
                for group in _group_by_length(tokens):
                    vectors[rows[group]] = self._forward([tokens[row] for row in group])
        return vectors

    def _forward(self, tokens: list[list[int]]) -> NDArray:
        """Encode texts of the same padded length -> (len(tokens), size)"""
        device = next(self.model.parameters()).device

        def encode_part(start: int, end: int) -> NDArray:
            inputs = {name: tensor.to(device) for name, tensor in self.pad(tokens[start:end]).items()}
            with autocast(device, self.config.precision):
                hidden = self.model(**inputs).last_hidden_state  # (B, T, H)
            return self.pool(hidden, inputs["attention_mask"]).cpu().numpy()

        return np.concatenate(list(self.batch_size.iter_chunks(len(tokens), encode_part)))

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize (N,) clean texts, see `EncoderTokenizer.ids`."""
        return EncoderTokenizer(self.tokenizer, self.config).ids(texts)

    def pad(self, tokens: list[list[int]]) -> dict[str, Tensor]:
        """Pad the ids of N texts -> input_ids and attention_mask, (N, T) int64 each, on the CPU."""
        longest = max(len(ids) for ids in tokens)
        length = min(-(-longest // MULTIPLE) * MULTIPLE, max(self.config.max_tokens, longest))
        ids = np.full((len(tokens), length), self.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, row_ids in enumerate(tokens):
            ids[row, : len(row_ids)], mask[row, : len(row_ids)] = row_ids, 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool (B, T, H) last states, (B, T) 1 for tokens and 0 for padding -> (B, size) fp32 of unit length"""
        return functional.normalize(pooling.pool(hidden, mask, self.modes), dim=1)

    def save(self, folder: Path) -> None:
        """Save weights, configuration and tokenizer: copies of the files, but for weights that were fine-tuned."""
        replaced = self.folder.weight_files() if self.fine_tuned else []
        for path in self.folder.files():
            if path not in replaced:
                copy = folder / path.relative_to(self.folder.path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        weights = self.weights
        if self.fine_tuned:
            self.model.save_pretrained(folder)  # type: ignore[operator]
            sha256 = ModelFolder(TEXT_ENCODER, folder, weights.name).sha256()
            weights = replace(weights, source=f"{weights.source}, fine-tuned", sha256=sha256)
        replace(self.config, weights=weights).write(folder)


def _group_by_length(tokens: list[list[int]]) -> Iterator[NDArray]:
    """Yield rows of texts with the same padded length, longest first, so that a lack of memory shows at once."""
    lengths = np.array([-(-len(ids) // MULTIPLE) for ids in tokens])
    for length in np.unique(lengths)[::-1]:
        yield np.flatnonzero(lengths == length)


def resolve(config: TextConfig) -> tuple[TextConfig, PretrainedWeights]:
    """See `encoders.resolve_encoder`."""
    folder = find_model(TEXT_ENCODER, config.encoder, config.revision)
    read_settings(config, folder)
    return replace(config, encoder=folder.name, revision=folder.commit), folder.pretrained()


def load(config: TextConfig, device: torch.device) -> TransformerEncoder:
    """See `encoders.load_encoder`."""
    folder = find_model(TEXT_ENCODER, config.encoder, config.revision)
    settings = replace(read_settings(config, folder), weights=folder.pretrained())
    return TransformerEncoder(folder, settings, config.batch_size, device)


def load_saved(folder: Path, settings: EncoderSettings, device: torch.device) -> TransformerEncoder:
    """See `encoders.load_saved_encoder`."""
    model = ModelFolder(TEXT_ENCODER, folder.resolve(), settings.weights.name).require_complete()
    if (sha256 := model.sha256()) != settings.weights.sha256:
        raise ValueError(
            f"the files of {model.name} in {folder} have sha256 {sha256}, not {settings.weights.sha256}, with "
            "which they were saved: copy the bundle again, or train again"
        )
    return TransformerEncoder(model, settings, TextConfig().batch_size, device)
