"""VGG16's convolutions with the configured weights: imagenet, file or random; never another kind instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from rakuten_tasks.config import PhotoConfig, Weights
from rakuten_tasks.models.backbones.weights_files import read_state, weights_of_file, weights_of_url
from rakuten_tasks.models.downloads import hub_file
from rakuten_tasks.models.pretrained import PretrainedWeights

if TYPE_CHECKING:
    from torchvision.models import VGG16_Weights

NAME = "vgg16"


def imagenet_weights() -> VGG16_Weights:
    """Return torchvision's description of ImageNet's weights."""
    from torchvision.models import VGG16_Weights  # not at the top: it takes two seconds, and only VGG16 needs it

    return VGG16_Weights.IMAGENET1K_V1


def convolutions(config: PhotoConfig) -> nn.Sequential:
    """Return torchvision's `features` of vgg16 or vgg16_bn, with the weights that the configuration names.

    Raises FileNotFoundError if they are not available, ValueError if the file has other contents.
    """
    if config.weights is Weights.AUTO:
        raise ValueError("weights: auto is not settled yet: call backbones.resolve_weights first")
    if config.weights is Weights.RANDOM:
        return random_convolutions()
    imagenet = config.weights is Weights.IMAGENET
    return load_convolutions(str(hub_file(imagenet_weights().url)) if imagenet else config.weights_file)


def pretrained(config: PhotoConfig) -> PretrainedWeights:
    """Describe the weights of `convolutions`, by hash rather than path. The tensors are not read.

    Raises FileNotFoundError if they are not available.
    """
    if config.weights is Weights.RANDOM:
        return PretrainedWeights(NAME, "random initialisation, trained on the catalogue", "NONE", "random")
    if config.weights is Weights.IMAGENET:
        return weights_of_url(NAME, imagenet_weights())
    return weights_of_file(NAME, config.weights_file)


def empty_convolutions(batch_norm: bool) -> nn.Sequential:
    """Return the layers of vgg16_bn or vgg16, to load weights into."""
    from torchvision.models.vgg import cfgs, make_layers

    return make_layers(cfgs["D"], batch_norm)


def random_convolutions(batch_norm: bool = True) -> nn.Sequential:
    """Return the layers of vgg16_bn or vgg16, initialised as torchvision does. Source: arXiv 1502.01852."""
    layers = empty_convolutions(batch_norm)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layer.bias.data.zero_()  # type: ignore[union-attr]
    return layers


def load_convolutions(path: str) -> nn.Sequential:
    """Load a .pth or .safetensors, local or remote, of vgg16 or vgg16_bn: the whole network or `features` alone."""
    state: Mapping[str, Tensor] = read_state(path)
    prefix = "features."
    if any(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    layers = empty_convolutions(batch_norm="1.running_mean" in state)
    wanted = {name: tensor.shape for name, tensor in layers.state_dict().items() if "num_batches" not in name}
    for name, shape in wanted.items():
        if name not in state or state[name].shape != shape:
            problem = f"has shape {tuple(state[name].shape)}" if name in state else "is missing"
            raise ValueError(
                f"{path} holds no weights of torchvision's vgg16 or vgg16_bn: {prefix}{name} {problem}, "
                f"wanted {tuple(shape)}: name a file with the state dict of one of the two"
            )
    layers.load_state_dict({name: state[name] for name in wanted}, strict=False)
    return layers
