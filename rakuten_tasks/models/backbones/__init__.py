"""Photo backbones: pretrained networks that turn prepared photos into features and are never trained.

A new one is a module with `resolve`, `load` and `restore`, and its prefix in MODULES.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

from rakuten_tasks.config import PhotoConfig
from rakuten_tasks.models.backbones.frozen import FrozenBackbone, read_saved
from rakuten_tasks.models.pretrained import PretrainedWeights

# by the beginning of photo.backbone
MODULES = {"vgg16": "frozen_vgg16", "torchvision:": "torchvision_models", "hf:": "transformer_models"}


def resolve_weights(config: PhotoConfig) -> tuple[PhotoConfig, PretrainedWeights]:
    """Resolve auto, image_size and an hf: backbone's revision, and check that the weights can be loaded.

    Of vgg16 alone, auto falls back on random weights where ImageNet's cannot be downloaded, with a warning that says
    how to mend it. An hf: backbone keeps auto.
    Raises FileNotFoundError if the weights cannot be found or downloaded, within ten seconds where there is no network,
    and ValueError if the backbone is unknown, cannot read photos of that image_size, or the file holds something else.
    """
    return _module(config.backbone).resolve(config)


def load_backbone(config: PhotoConfig, device: torch.device) -> FrozenBackbone:
    """Load a resolved configuration's backbone. Raises as `resolve_weights`, and ValueError for random weights."""
    return _module(config.backbone).load(config, device)


def load_saved_backbone(folder: Path, device: torch.device) -> FrozenBackbone:
    """Load a saved backbone. Raises FileNotFoundError if a file is missing."""
    description, tensors = read_saved(folder)
    return _module(description.name).restore(description, tensors, device)


def _module(backbone: str) -> ModuleType:
    # imported only when needed: transformers takes seconds, and vgg16_network imports this package
    for prefix, module in MODULES.items():
        if backbone.startswith(prefix):
            return import_module(f"{__name__}.{module}")
    raise ValueError(f"backbone={backbone!r}: vgg16, torchvision:NAME, or hf:NAME_OR_FOLDER")
