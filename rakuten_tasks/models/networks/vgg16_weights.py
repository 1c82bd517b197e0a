"""VGG16's convolutions by the name of their weights: imagenet, file or random. None is ever replaced by another."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from rakuten_tasks.config import PhotoConfig, Weights
from rakuten_tasks.models.backbones.weights_files import read_state, weights_of_file, weights_of_url
from rakuten_tasks.models.downloads import hub_file
from rakuten_tasks.models.pretrained import PretrainedWeights

IMAGENET = VGG16_Weights.IMAGENET1K_V1
NAME = "vgg16"


def convolutions(config: PhotoConfig) -> nn.Sequential:
    """torchvision's `features` of vgg16 or vgg16_bn, with the weights that the configuration names.

    Raises FileNotFoundError if they cannot be had, ValueError if the file holds something else.
    """
    if config.weights is Weights.RANDOM:
        return random_convolutions()
    return load_convolutions(_file(config))


def pretrained(config: PhotoConfig) -> PretrainedWeights:
    """What `convolutions` gives, told apart by its bits, wherever the file lies. The file's content is not looked at.

    Raises FileNotFoundError if they cannot be had.
    """
    if config.weights is Weights.RANDOM:
        return PretrainedWeights(NAME, "random initialisation, trained on the catalogue", "NONE", "random")
    if config.weights is Weights.IMAGENET:
        return weights_of_url(NAME, IMAGENET)
    return weights_of_file(NAME, config.weights_file)


def _file(config: PhotoConfig) -> str:
    if config.weights is Weights.AUTO:
        raise ValueError("weights: auto is not settled yet: call backbones.resolve_weights first")
    return str(hub_file(IMAGENET.url)) if config.weights is Weights.IMAGENET else config.weights_file


def empty_convolutions(batch_norm: bool) -> nn.Sequential:
    """The layers of vgg16_bn or vgg16, their weights to be filled in."""
    return make_layers(cfgs["D"], batch_norm)


def random_convolutions(batch_norm: bool = True) -> nn.Sequential:
    """vgg16_bn or vgg16, initialised as torchvision does. (arXiv 1502.01852)"""
    layers = empty_convolutions(batch_norm)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layer.bias.data.zero_()  # type: ignore[union-attr]
    return layers


def load_convolutions(path: str) -> nn.Sequential:
    """From a .pth or .safetensors, local or remote, of vgg16 or vgg16_bn: the whole network or `features` alone."""
    held: Mapping[str, Tensor] = read_state(path)
    prefix = "features."
    if any(name.startswith(prefix) for name in held):
        held = {name.removeprefix(prefix): held[name] for name in held if name.startswith(prefix)}
    layers = empty_convolutions(batch_norm="1.running_mean" in held)
    wanted = {name: tensor.shape for name, tensor in layers.state_dict().items() if "num_batches" not in name}
    for name, shape in wanted.items():
        if name not in held or held[name].shape != shape:
            found = f"has shape {tuple(held[name].shape)}" if name in held else "is missing"
            raise ValueError(
                f"{path} holds no weights of torchvision's vgg16 or vgg16_bn: {prefix}{name} {found}, "
                f"wanted {tuple(shape)}: name a file with the state dict of one of the two"
            )
    layers.load_state_dict({name: held[name] for name in wanted}, strict=False)
    return layers
