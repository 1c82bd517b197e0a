"""Backbones `torchvision:NAME`: what the last layer of an ImageNet classifier reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from rakuten_tasks.config import PhotoConfig, Weights
from rakuten_tasks.models.backbones.frozen import Description, FrozenBackbone, Normalised, photos_at_once, seen_size
from rakuten_tasks.models.backbones.weights_files import read_state, weights_of_file, weights_of_url
from rakuten_tasks.models.pretrained import PretrainedWeights

log = logging.getLogger(__name__)

PREFIX = "torchvision:"
# what these two are made with when torchvision fills in ImageNet's weights; their further heads serve training alone
GOOGLE = {"transform_input": True, "aux_logits": False, "init_weights": False}
ARGUMENTS: dict[str, dict[str, Any]] = {"googlenet": GOOGLE, "inception_v3": GOOGLE}


def resolve(config: PhotoConfig) -> tuple[PhotoConfig, PretrainedWeights]:
    """See `backbones.resolve_weights`."""
    published = _published(config.backbone)
    if config.weights is Weights.AUTO:
        config = replace(config, weights=Weights.IMAGENET)
    config = replace(config, image_size=config.image_size or _image_size(published))
    _size(config)
    weights = _pretrained(config, published)
    _tensors(config, published)  # what the file holds is known before any photo is looked at
    if weights.warning:
        log.warning("%s", weights.warning)
    return config, weights


def load(config: PhotoConfig, device: torch.device) -> FrozenBackbone:
    """See `backbones.load_backbone`."""
    published = _published(config.backbone)
    config = replace(config, image_size=config.image_size or _image_size(published))
    weights = _pretrained(config, published)
    description = Description(config.backbone, _size(config), config.image_size, weights)
    return restore(description, _tensors(config, published), device)


def restore(description: Description, tensors: Mapping[str, Tensor], device: torch.device) -> FrozenBackbone:
    """See `backbones.load_saved_backbone`."""
    network = _network(description.name)
    state = network.state_dict()  # with versions, which mnasnet asks for and safetensors does not keep
    state.update(tensors)
    network.load_state_dict(state, assign=True)
    return FrozenBackbone(network.to(device), description, photos_at_once(device))


def _published(backbone: str) -> WeightsEnum:
    """torchvision's best ImageNet weights for the model. Raises ValueError, naming models like it, if there is none."""
    name, known = backbone.removeprefix(PREFIX), list_models(module=torchvision.models)
    if name not in known:
        near = get_close_matches(name, known, n=3) or known[:3]
        raise ValueError(
            f"photo.backbone={backbone!r}: torchvision {torchvision.__version__} has no such classification model: "
            f"write {PREFIX} and one of its names, as {', '.join(near)}"
        )
    return get_model_weights(name).DEFAULT


def _image_size(published: WeightsEnum) -> int:
    return published.transforms().crop_size[0]


def _pretrained(config: PhotoConfig, published: WeightsEnum) -> PretrainedWeights:
    if config.weights is Weights.FILE:
        return weights_of_file(config.backbone, config.weights_file)
    return weights_of_url(config.backbone, published)


def _network(backbone: str) -> Normalised:
    """Without its last layer, on the meta device: shapes and no weights yet."""
    name = backbone.removeprefix(PREFIX)
    published = _published(backbone)
    prepared, arguments = published.transforms(), dict(ARGUMENTS.get(name, {}))
    if name.startswith("vit_"):
        arguments["image_size"] = prepared.crop_size[0]
    try:
        with torch.device("meta"):
            model = get_model(name, weights=None, **arguments)
    except NotImplementedError:  # regnet computes its widths by tensors with content
        with torch.random.fork_rng(devices=[]):
            model = get_model(name, weights=None, **arguments).to("meta")
    return Normalised(_headless(model), prepared.mean, prepared.std)


def _last_layer(model: nn.Module) -> str:
    """The name of what gives the classes: in every classification model of torchvision it is made last."""
    return [name for name, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))][-1]


def _headless(model: nn.Module) -> nn.Module:
    model.set_submodule(_last_layer(model), nn.Identity())
    return model


def _size(config: PhotoConfig) -> int:
    """Numbers of a photo's features. Raises ValueError if the model cannot see photos of that image_size."""
    return seen_size(_network(config.backbone), config.backbone, config.image_size)


def _tensors(config: PhotoConfig, published: WeightsEnum) -> dict[str, Tensor]:
    """The state dict of `_network`. Raises ValueError if the file is not of this model."""
    name = config.backbone.removeprefix(PREFIX)
    if config.weights is Weights.IMAGENET:
        # torchvision renames what older files call otherwise; the file is there by now
        model = get_model(name, weights=published, progress=False)
        held: Mapping[str, Tensor] = model.state_dict()
    else:
        held = read_state(config.weights_file)
    wanted = _network(config.backbone).network.state_dict()
    for key, tensor in wanted.items():
        if key not in held or held[key].shape != tensor.shape:
            found = f"has shape {tuple(held[key].shape)}" if key in held else "is missing"
            raise ValueError(
                f"{config.weights_file or published.url} holds no weights of torchvision's {name}: {key} {found}, "
                f"wanted {tuple(tensor.shape)}: name a file with this model's state dict"
            )
    return {f"network.{key}": held[key] for key in wanted}
