"""Pretrained encoders of text: a text becomes a vector.

The one place where they are chosen. A new one is a module with `resolve`, `load` and `load_saved`, and its name below.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from numpy.typing import NDArray

from rakuten_tasks.config import TextConfig
from rakuten_tasks.models.encoders.saved import SavedEncoder
from rakuten_tasks.models.pretrained import PretrainedWeights

__all__ = ["TextEncoder", "load_encoder", "load_saved_encoder", "resolve_encoder"]

MODULES = {"use-multilingual": "use_multilingual", "hf:": "transformer_encoder"}  # by the beginning of text.encoder


class TextEncoder(Protocol):
    """Gives a text the same vector whichever texts it comes with, up to rounding."""

    size: int  # numbers of a vector
    weights: PretrainedWeights

    def encode(self, texts: Sequence[str]) -> NDArray:
        """(N,) texts, cleaned by text.clean -> (N, size) fp32, rows of unit length; zeros for an empty text."""
        ...

    def save(self, folder: Path) -> None:
        """Everything that `load_saved_encoder` needs besides the image: JSON and safetensors, no pickle."""
        ...


def resolve_encoder(config: TextConfig) -> PretrainedWeights:
    """The weights that `load_encoder` will take, seen to be there, whole, and not too large for this machine's memory.

    Raises FileNotFoundError if they cannot be had, ValueError if they cannot be used; both say how to mend it.
    """
    return _module(config.encoder).resolve(config)


def load_encoder(config: TextConfig, device: torch.device) -> TextEncoder:
    """As configured. Raises what `resolve_encoder` raises."""
    return _module(config.encoder).load(config, device)


def load_saved_encoder(folder: Path, device: torch.device) -> TextEncoder:
    """What `save` wrote, its hash verified; no network is used.

    Raises FileNotFoundError if something is missing, ValueError if it is not what was saved.
    """
    saved = SavedEncoder.read(folder)
    return _module(saved.weights.name).load_saved(folder, saved, device)


def _module(encoder: str) -> ModuleType:
    # imported when asked for: transformers takes seconds
    for beginning, module in MODULES.items():
        if encoder.startswith(beginning):
            return import_module(f"{__name__}.{module}")
    raise ValueError(f"text.encoder={encoder!r} gives no vectors: set it to use-multilingual or hf:NAME_OR_FOLDER")
