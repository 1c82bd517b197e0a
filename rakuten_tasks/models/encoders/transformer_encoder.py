"""Encoders `hf:NAME_OR_FOLDER`: language models of transformers, from a folder or a hub, safetensors alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rakuten_tasks.config import Precision, TextConfig
from rakuten_tasks.models.encoders import pooling, room
from rakuten_tasks.models.encoders.model_folder import PREFIX, ModelFolder, check, find
from rakuten_tasks.models.encoders.saved import SavedEncoder, cut
from rakuten_tasks.models.encoders.transformer_parts import (
    count_parameters,
    read_architecture,
    read_model,
    read_tokenizer,
    settle_max_tokens,
    settle_prefix,
)
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.training.loop import autocast
from rakuten_tasks.training.oom import MicrobatchRunner

__all__ = ["PREFIX", "TransformerEncoder", "load", "load_saved", "resolve"]

CHARACTERS_PER_TOKEN = 16  # French has 4: what is cut here would not have been among the tokens
TEXTS_AT_ONCE = 4096  # tokenized and sorted before they are encoded
# Texts go through with others of the same length, rounded up to this: then a text's own padding is the same alone and
# in any batch, and so are its bits on a CPU, in bf16 too, where other padding moves numbers by 0.0009.
MULTIPLE = 8


class TransformerEncoder:
    """model: may be trained; set fine_tuned then, so that `save` writes its weights. size: numbers of a vector."""

    def __init__(self, folder: ModelFolder, config: SavedEncoder, batch_size: int, device: torch.device) -> None:
        self.folder, self.config, self.weights = folder, config, config.weights
        self.tokenizer = read_tokenizer(folder)
        network = read_model(folder)
        self.modes = pooling.pooling_modes(folder.path)
        self.size = int(network.config.hidden_size) * len(self.modes)
        self.model: nn.Module = network.eval().to(device)
        self.fine_tuned = False
        self.batch_size = MicrobatchRunner(batch_size, f"encoder {self.weights.name}")

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray:
        """(N,) clean texts -> (N, size) fp32 of unit length; zeros for an empty text.

        A batch that does not fit into memory is halved. Raises MemoryError if one text does not fit.
        """
        self.model.eval()
        vectors = np.zeros((len(texts), self.size), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            rows = np.array([row for row in range(start, min(start + TEXTS_AT_ONCE, len(texts))) if texts[row]], int)
            if len(rows):
                tokens = self._tokens([texts[row] for row in rows])
                for alike in _by_length(tokens):
                    vectors[rows[alike]] = self._forward([tokens[row] for row in alike])
        return vectors

    def _forward(self, tokens: list[list[int]]) -> NDArray:
        """Of texts that are about equally long -> (len(tokens), size)"""
        device = next(self.model.parameters()).device

        def part(start: int, end: int) -> NDArray:
            inputs = {name: tensor.to(device) for name, tensor in self._padded(tokens[start:end]).items()}
            with self.autocast(device):
                hidden = self.model(**inputs).last_hidden_state  # (B, T, H)
            return self.pool(hidden, inputs["attention_mask"]).cpu().numpy()

        return np.concatenate(list(self.batch_size.iter_chunks(len(tokens), part)))

    def autocast(self, device: torch.device) -> torch.autocast:
        """The arithmetic that was configured."""
        if self.config.precision is Precision.AUTO:
            return autocast(device)
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision is Precision.BFLOAT16)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """(N,) clean texts -> input_ids and attention_mask, (N, T) int64 each, on the CPU; prefixed and truncated."""
        return self._padded(self._tokens(texts))

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        kept = [cut(text, self.config.prefix, self.config.max_characters) for text in texts]
        return self.tokenizer(kept, truncation=True, max_length=self.config.max_tokens)["input_ids"]

    def _padded(self, tokens: list[list[int]]) -> dict[str, Tensor]:
        longest = _rounded(max(len(ids) for ids in tokens), self.config.max_tokens)
        ids = np.full((len(tokens), longest), self.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, known in enumerate(tokens):
            ids[row, : len(known)], mask[row, : len(known)] = known, 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, T, H) last states, (B, T) 1 for tokens and 0 for padding -> (B, size) fp32 of unit length"""
        return functional.normalize(pooling.pool(hidden, mask, self.modes), dim=1)

    def save(self, folder: Path) -> None:
        """Weights, configuration and tokenizer: copied, or written anew if the model was fine-tuned."""
        replaced = self.folder.weight_files() if self.fine_tuned else []
        for path in self.folder.files():
            if path not in replaced:
                copy = folder / path.relative_to(self.folder.path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        weights = self.weights
        if self.fine_tuned:
            self.model.save_pretrained(folder)  # type: ignore[operator]
            tuned = ModelFolder(folder, weights.name).sha256()
            weights = replace(weights, source=f"{weights.source}, fine-tuned", sha256=tuned)
        replace(self.config, weights=weights).write(folder)


def _rounded(tokens: int, most: int) -> int:
    return min(-(-tokens // MULTIPLE) * MULTIPLE, max(most, tokens))


def _by_length(tokens: list[list[int]]) -> Iterator[NDArray]:
    """Rows of texts that are padded to the same length, longest first: what does not fit into memory shows at once."""
    lengths = np.array([-(-len(ids) // MULTIPLE) for ids in tokens])
    for length in np.unique(lengths)[::-1]:
        yield np.flatnonzero(lengths == length)


def resolve(config: TextConfig) -> PretrainedWeights:
    """Raises FileNotFoundError if the model cannot be had, ValueError if it cannot be used."""
    folder = find(config.encoder, config.revision)
    _resolve_encoder(config, folder)
    return folder.pretrained()


def load(config: TextConfig, device: torch.device) -> TransformerEncoder:
    """As configured. Raises what `resolve` raises."""
    folder = find(config.encoder, config.revision)
    saved = replace(_resolve_encoder(config, folder), weights=folder.pretrained())
    return TransformerEncoder(folder, saved, config.batch_size, device)


def load_saved(folder: Path, saved: SavedEncoder, device: torch.device) -> TransformerEncoder:
    """From a bundle. Raises FileNotFoundError if files are missing, ValueError if they are others than were saved."""
    found = check(ModelFolder(folder.resolve(), saved.weights.name))
    if (sha256 := found.sha256()) != saved.weights.sha256:
        raise ValueError(
            f"the files of {saved.weights.name} in {folder} have sha256 {sha256}, not {saved.weights.sha256}, with "
            "which they were saved: copy the bundle again, or train again"
        )
    return TransformerEncoder(found, saved, TextConfig().batch_size, device)


def _resolve_encoder(config: TextConfig, folder: ModelFolder) -> SavedEncoder:
    """Nothing left to be chosen, and seen to fit into memory; without the weights' hash, which takes seconds."""
    pooling.pooling_modes(folder.path)
    architecture = read_architecture(folder)
    parameters = count_parameters(folder, architecture)
    tokens = settle_max_tokens(config, folder, architecture, read_tokenizer(folder))
    hidden = architecture.hidden_size
    inner = getattr(architecture, "intermediate_size", None) or 4 * hidden
    copies = 4 if config.fine_tune_epochs else 1  # gradients and AdamW's two moments
    # fp32 of one layer: states, queries, keys, values and their products, and the wide layer twice
    batch = config.batch_size * tokens * (10 * hidden + 2 * inner) * 4
    room.require(parameters * 4 * copies, batch, f"text.encoder={config.encoder!r}")
    unhashed = PretrainedWeights(config.encoder, "", "", "")
    characters = config.max_characters or CHARACTERS_PER_TOKEN * tokens
    return SavedEncoder(unhashed, characters, settle_prefix(config, folder), tokens, config.precision)
