"""Backbones `torchvision:NAME`: the input of an ImageNet classifier's last layer."""

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
from rakuten_tasks.models.backbones.frozen import Description, FrozenBackbone, Normalised, feature_size
from rakuten_tasks.models.backbones.weights_files import read_state, require_shapes, weights_of_file, weights_of_url
from rakuten_tasks.models.pretrained import PretrainedWeights

log = logging.getLogger(__name__)

PREFIX = "torchvision:"
# as torchvision makes these two when it loads ImageNet's weights; their further heads serve training alone
GOOGLE = {"transform_input": True, "aux_logits": False, "init_weights": False}
ARGUMENTS: dict[str, dict[str, Any]] = {"googlenet": GOOGLE, "inception_v3": GOOGLE}


def resolve(config: PhotoConfig) -> tuple[PhotoConfig, PretrainedWeights]:
    """See `backbones.resolve_weights`."""
    config, description, _ = _read(config)  # the whole file, which may hold something else
    if description.weights.warning:
        log.warning("%s", description.weights.warning)
    return config, description.weights


def load(config: PhotoConfig, device: torch.device) -> FrozenBackbone:
    """See `backbones.load_backbone`."""
    _, description, tensors = _read(config)
    return restore(description, tensors, device)


def restore(description: Description, tensors: Mapping[str, Tensor], device: torch.device) -> FrozenBackbone:
    """See `backbones.load_saved_backbone`."""
    network = _network(description.name)
    state = network.state_dict()  # with versions, which mnasnet needs and safetensors does not save
    state.update(tensors)
    network.load_state_dict(state, assign=True)
    return FrozenBackbone(network.to(device), description)


def _read(config: PhotoConfig) -> tuple[PhotoConfig, Description, dict[str, Tensor]]:
    """Return the resolved configuration, the backbone's description, and the state dict of `_network`.

    Raises ValueError if the model cannot read photos of that image_size, or if the file is not of this model.
    """
    published = _published(config.backbone)
    config = replace(
        config,
        weights=Weights.IMAGENET if config.weights is Weights.AUTO else config.weights,
        image_size=config.image_size or published.transforms().crop_size[0],
    )
    network, name = _network(config.backbone), config.backbone.removeprefix(PREFIX)
    shapes = {key: tensor.shape for key, tensor in network.network.state_dict().items()}
    size = feature_size(network, config.backbone, config.image_size)
    if config.weights is Weights.FILE:
        weights = weights_of_file(config.backbone, config.weights_file)
        state = read_state(config.weights_file)
    else:
        weights = weights_of_url(config.backbone, published)
        # torchvision renames the keys of older files; the file is in the cache by now
        state = get_model(name, weights=published, progress=False).state_dict()
    require_shapes(state, shapes, config.weights_file or published.url, name)
    description = Description(config.backbone, size, config.image_size, weights, precision=config.precision)
    return config, description, {f"network.{key}": state[key] for key in shapes}


def _published(backbone: str) -> WeightsEnum:
    """Find torchvision's best ImageNet weights. Raises ValueError, naming similar models, if there is no such model."""
    name, names = backbone.removeprefix(PREFIX), list_models(module=torchvision.models)
    if name not in names:
        near = get_close_matches(name, names, n=3) or names[:3]
        raise ValueError(
            f"photo.backbone={backbone!r}: torchvision {torchvision.__version__} has no such classification model: "
            f"write {PREFIX} and one of its names, as {', '.join(near)}"
        )
    return get_model_weights(name).DEFAULT


def _network(backbone: str) -> Normalised:
    """Build the model without its last layer, on the meta device: shapes and no weights yet."""
    name = backbone.removeprefix(PREFIX)
    transforms, arguments = _published(backbone).transforms(), dict(ARGUMENTS.get(name, {}))
    if name.startswith("vit_"):
        arguments["image_size"] = transforms.crop_size[0]
    try:
        with torch.device("meta"):
            model = get_model(name, weights=None, **arguments)
    except NotImplementedError:  # regnet computes its widths by tensors with content
        with torch.random.fork_rng(devices=[]):
            model = get_model(name, weights=None, **arguments).to("meta")
    # in every classification model of torchvision, the layer that gives the classes is made last
    last = [layer for layer, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    model.set_submodule(last, nn.Identity())
    return Normalised(model, transforms.mean, transforms.std)
