"""Pretrained text encoders: a text becomes a vector.

A new one is a module with `resolve`, `load` and `load_saved`, and its name in MODULES.
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
from rakuten_tasks.models.encoders.settings import EncoderSettings
from rakuten_tasks.models.pretrained import PretrainedWeights

MODULES = {"use-multilingual": "use_multilingual", "hf:": "transformer_encoder"}  # by the beginning of text.encoder


class TextEncoder(Protocol):
    """An encoder that gives a text the same vector alone and in any batch, up to rounding."""

    size: int  # numbers of a vector
    weights: PretrainedWeights

    def encode(self, texts: Sequence[str]) -> NDArray:
        """Encode (N,) texts, cleaned by text.clean -> (N, size) fp32, rows of unit length; zeros for an empty text."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything that `load_saved_encoder` needs besides the image: JSON and safetensors, no pickle."""
        ...


def resolve_encoder(config: TextConfig) -> tuple[TextConfig, PretrainedWeights]:
    """Check that the encoder can be loaded, and give the configuration with its revision resolved to a commit.

    Raises FileNotFoundError if its files cannot be found or downloaded, ValueError if they cannot be used or the
    encoder does not fit into this machine's memory; both say how to mend it.
    """
    return _module(config.encoder).resolve(config)


def load_encoder(config: TextConfig, device: torch.device) -> TextEncoder:
    """Load the configured encoder. Raises the errors of `resolve_encoder`."""
    return _module(config.encoder).load(config, device)


def load_saved_encoder(folder: Path, device: torch.device) -> TextEncoder:
    """Load a saved encoder and verify its hash; no network is used.

    Raises FileNotFoundError if a file is missing, ValueError if the hash differs.
    """
    settings = EncoderSettings.read(folder)
    return _module(settings.weights.name).load_saved(folder, settings, device)


def _module(encoder: str) -> ModuleType:
    # imported only when needed: transformers takes seconds
    for prefix, module in MODULES.items():
        if encoder.startswith(prefix):
            return import_module(f"{__name__}.{module}")
    raise ValueError(f"text.encoder={encoder!r} gives no vectors: set it to use-multilingual or hf:NAME_OR_FOLDER")
