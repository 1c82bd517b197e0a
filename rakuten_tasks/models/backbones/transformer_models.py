"""Backbones `hf:NAME_OR_FOLDER`: image models of transformers, from a folder or a hub.

Features are the model's pooled output, or the mean of its last hidden state if its pooling was not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rakuten_tasks.config import PhotoConfig
from rakuten_tasks.models.backbones.frozen import Description, FrozenBackbone, Normalised, feature_size
from rakuten_tasks.models.model_folder import CONFIG, ModelFolder, ModelKind, find_model, quiet_transformers
from rakuten_tasks.models.pretrained import PretrainedWeights

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
PHOTO_BACKBONE = ModelKind("photo.backbone", (CONFIG, *PROCESSORS), "image_processor", PROCESSORS)
BYTE = 1 / 255


class ImageModel(nn.Module):
    """Normalised photos -> features."""

    def __init__(self, model: nn.Module, pooled: bool) -> None:
        """pooled: whether the weights of the model's pooling were trained."""
        super().__init__()
        self.model, self.pooled = model, pooled

    def forward(self, photos: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, size)"""
        output = self.model(pixel_values=photos)
        pooled = output.get("pooler_output") if self.pooled else None
        if pooled is not None:
            return pooled.flatten(1)  # (B, C, 1, 1) of convolutional models
        states = output["last_hidden_state"]  # (B, T, C), or (B, C, h, w)
        return states.mean(1) if states.ndim == 3 else states.mean((2, 3))


def resolve(config: PhotoConfig) -> tuple[PhotoConfig, PretrainedWeights]:
    """See `backbones.resolve_weights`."""
    config, description, _ = _read(config)
    return config, description.weights


def load(config: PhotoConfig, device: torch.device) -> FrozenBackbone:
    """See `backbones.load_backbone`."""
    _, description, network = _read(config)
    return FrozenBackbone(network.to(device), description)


def restore(description: Description, tensors: Mapping[str, Tensor], device: torch.device) -> FrozenBackbone:
    """See `backbones.load_saved_backbone`."""
    network = _network(description.architecture)
    network.load_state_dict(tensors)
    return FrozenBackbone(network.to(device), description)


def _read(config: PhotoConfig) -> tuple[PhotoConfig, Description, Normalised]:
    """Return the resolved configuration, the backbone's description, and its network.

    Raises ValueError if transformers cannot read the model, if weights are missing, if it reads no photos, or none of
    that image_size.
    """
    folder = find_model(PHOTO_BACKBONE, config.backbone, config.revision)
    image_size, mean, deviation = _read_processor(folder)
    config = replace(config, backbone=folder.name, revision=folder.commit, image_size=config.image_size or image_size)
    model, pooled = folder.read_network()
    model = getattr(model, "vision_model", model)  # of CLIP and similar pairs
    if model.main_input_name != "pixel_values":
        raise ValueError(
            f"{folder.path} reads {model.main_input_name}, not photos: name an image model as photo.backbone"
        )
    architecture = {"config": model.config.to_dict(), "pooled": pooled, "mean": mean, "deviation": deviation}
    with torch.device("meta"):  # a large model's random weights would take seconds
        size = feature_size(_network(architecture), config.backbone, config.image_size)
    weights, image_size = folder.pretrained(), config.image_size
    description = Description(config.backbone, size, image_size, weights, architecture, config.precision)
    return config, description, Normalised(ImageModel(model, pooled), mean, deviation)


def _network(architecture: Mapping[str, Any]) -> Normalised:
    """Build the network with random weights."""
    from transformers import AutoConfig, AutoModel

    with quiet_transformers():
        model = AutoModel.from_config(AutoConfig.for_model(**architecture["config"]), trust_remote_code=False)
    return Normalised(ImageModel(model, architecture["pooled"]), architecture["mean"], architecture["deviation"])


def _read_processor(folder: ModelFolder) -> tuple[int, list[float], list[float]]:
    """Read image size in pixels, mean and deviation of red, green and blue from 0 to 1.

    Raises ValueError if the folder does not contain them.
    """
    name = next(name for name in PROCESSORS if (folder.path / name).is_file())
    config = folder.read_json(name)
    config = config.get("image_processor", config)
    crop = config.get("crop_size") if config.get("do_center_crop", True) else None
    size = crop or config.get("size")  # 224, {"shortest_edge": 224} or {"height": 224, "width": 224}
    image_size = size.get("height") or size.get("shortest_edge") if isinstance(size, Mapping) else size
    if not isinstance(image_size, int):
        raise ValueError(f"{folder.path / name} has no image size: take the file from the model's page")
    scale = config.get("rescale_factor", BYTE) / BYTE if config.get("do_rescale", True) else 1 / BYTE
    mean, deviation = [0.0] * 3, [1.0] * 3
    if config.get("do_normalize", True):
        mean, deviation = config.get("image_mean"), config.get("image_std")
    if not (mean and deviation):
        raise ValueError(f"{folder.path / name} has no image_mean and image_std: take them from the model's page")
    return image_size, [value / scale for value in mean], [value / scale for value in deviation]
