"""Backbones `hf:NAME_OR_FOLDER`: image models of transformers, from a folder or a hub, safetensors alone.

Features are the model's pooled output, or the mean of its last hidden state where it has none that was trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rakuten_tasks.config import PhotoConfig
from rakuten_tasks.models.backbones.downloads import first_line
from rakuten_tasks.models.backbones.frozen import Description, FrozenBackbone, Normalised, photos_at_once, seen_size
from rakuten_tasks.models.backbones.model_folders import PREFIX, ModelFolder, find_folder
from rakuten_tasks.models.pretrained import PretrainedWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ImageModel(nn.Module):
    """Normalised photos -> features."""

    def __init__(self, model: nn.Module, pooled: bool) -> None:
        """pooled: whether the weights of the model's pooling were trained."""
        super().__init__()
        self.model, self.pooled = model, pooled

    def forward(self, photos: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, size)"""
        seen = self.model(pixel_values=photos)
        pooled = seen.get("pooler_output") if self.pooled else None
        if pooled is not None:
            return pooled.flatten(1)  # convolutional models leave (B, C, 1, 1)
        states = seen["last_hidden_state"]  # (B, T, C), or (B, C, h, w)
        return states.mean(1) if states.ndim == 3 else states.mean((2, 3))


def resolve(config: PhotoConfig) -> tuple[PhotoConfig, PretrainedWeights]:
    """See `backbones.resolve_weights`."""
    folder = find_folder(config.backbone.removeprefix(PREFIX), config.revision)
    settled = replace(
        config,
        backbone=PREFIX + folder.name,
        revision=folder.revision,
        image_size=config.image_size or folder.image_size,
    )
    model, pooled = _read(folder)
    _size(settled, _describe_model(folder, model, pooled))
    return settled, folder.weights()


def load(config: PhotoConfig, device: torch.device) -> FrozenBackbone:
    """See `backbones.load_backbone`."""
    folder = find_folder(config.backbone.removeprefix(PREFIX), config.revision)
    config = replace(config, image_size=config.image_size or folder.image_size)
    model, pooled = _read(folder)
    facts = _describe_model(folder, model, pooled)
    description = Description(config.backbone, _size(config, facts), config.image_size, folder.weights(), facts)
    network = Normalised(ImageModel(model, pooled), folder.mean, folder.deviation)
    return FrozenBackbone(network.to(device), description, photos_at_once(device))


def restore(description: Description, tensors: Mapping[str, Tensor], device: torch.device) -> FrozenBackbone:
    """See `backbones.load_saved_backbone`."""
    network = _network(description.facts)
    network.load_state_dict(tensors)
    return FrozenBackbone(network.to(device), description, photos_at_once(device))


def _describe_model(folder: ModelFolder, model: PreTrainedModel, pooled: bool) -> dict[str, Any]:
    return {
        "config": model.config.to_dict(),
        "pooled": pooled,
        "mean": list(folder.mean),
        "deviation": list(folder.deviation),
    }


def _network(facts: Mapping[str, Any]) -> Normalised:
    """Weights to be filled in."""
    from transformers import AutoConfig, AutoModel

    with torch.random.fork_rng(devices=[]), _quietly():
        model = AutoModel.from_config(AutoConfig.for_model(**facts["config"]), trust_remote_code=False)
    return Normalised(ImageModel(model, facts["pooled"]), facts["mean"], facts["deviation"])


def _size(config: PhotoConfig, facts: Mapping[str, Any]) -> int:
    """Numbers of a photo's features. Raises ValueError if the model cannot see photos of that image_size."""
    with torch.device("meta"):  # a large model's random weights would take seconds and be thrown away
        network = _network(facts)
    return seen_size(network, config.backbone, config.image_size)


def _read(folder: ModelFolder) -> tuple[PreTrainedModel, bool]:
    """The model that sees, of two joined ones the one for photos, and whether its pooling was trained.

    Raises ValueError if transformers cannot read it, if weights are missing, or if it reads no photos.
    """
    from transformers import AutoModel

    where = folder.path
    try:
        with torch.random.fork_rng(devices=[]), _quietly():
            model, found = AutoModel.from_pretrained(
                where,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except Exception as error:  # transformers names no closed set of errors for other folders
        raise ValueError(
            f"{where} is no model that transformers can read without code of its own: {first_line(error)}"
        ) from error
    model = getattr(model, "vision_model", model)  # of CLIP and its kind
    if model.main_input_name != "pixel_values":
        raise ValueError(f"{where} reads {model.main_input_name}, not photos: name an image model as photo.backbone")
    missing = [*found["missing_keys"], *found["mismatched_keys"]]
    if other := sorted(str(key) for key in missing if "pooler" not in str(key)):
        raise ValueError(f"{where} lacks weights of its model, {other[0]} and {len(other) - 1} more: save it once more")
    return model, not missing


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' report of pooling weights that are missing: they are not used."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
