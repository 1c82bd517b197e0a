"""VGG16's convolutions by the name of their weights: imagenet, file or random. None is ever replaced by another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import fsspec
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from rakuten_tasks.config import PhotoConfig, Weights

IMAGENET = VGG16_Weights.IMAGENET1K_V1


def convolutions(config: PhotoConfig) -> nn.Sequential:
    """torchvision's `features` of vgg16 or vgg16_bn, with the weights that the configuration names.

    Raises FileNotFoundError if they cannot be had, ValueError if the file holds something else.
    """
    if config.weights is Weights.RANDOM:
        return random_convolutions()
    if config.weights is Weights.IMAGENET:
        return load_convolutions(str(imagenet_file()))
    return load_convolutions(config.weights_file)


def weights_key(config: PhotoConfig) -> str:
    """Tells the convolutions' weights apart by what they are, wherever their file lies.

    Raises FileNotFoundError if they cannot be had.
    """
    if config.weights is Weights.RANDOM:
        return "random"
    if config.weights is Weights.IMAGENET:
        return imagenet_file().name  # ends with its hash
    with _opened(config.weights_file) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    held = _read(path)
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


def imagenet_file() -> Path:
    """torchvision's file in torch hub's cache folder, downloaded if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(IMAGENET.url).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = path.stem.rpartition("-")[2]
        try:
            torch.hub.download_url_to_file(IMAGENET.url, str(path), hash_prefix=digest)
        except (URLError, OSError) as error:
            raise FileNotFoundError(
                f"weights: imagenet: no download of {IMAGENET.url} from here ({error}): put {path.name} into "
                f"{path.parent}, or give its place as weights_file with weights: file, or set weights: random"
            ) from error
    return path


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        with fsspec.open(path, "rb") as file:
            yield file
    except FileNotFoundError as error:
        raise FileNotFoundError(f"weights_file {path} does not exist: name a .pth or .safetensors of vgg16") from error


def _read(path: str) -> Mapping[str, Tensor]:
    if not path.endswith((".pth", ".safetensors")):
        raise ValueError(f"weights_file {path}: name a .pth or a .safetensors file")
    with _opened(path) as file:
        try:
            if path.endswith(".safetensors"):
                return load_safetensors(file.read())
            return torch.load(file, map_location="cpu", weights_only=True)
        except OSError:  # of the store, not of what the file holds
            raise
        except Exception as error:  # the readers name no closed set of errors for other files
            raise ValueError(f"weights_file {path} is not a {Path(path).suffix} state dict: {error}") from error
