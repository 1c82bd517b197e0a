"""Batched inference of a frozen network, saved as two files: what all backbones share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rakuten_tasks.config import Precision
from rakuten_tasks.config_base import Strict
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.training.hardware import autocast
from rakuten_tasks.training.oom import MicrobatchRunner

TENSORS = "backbone.safetensors"
DESCRIPTION = "backbone.json"
LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Description(Strict):
    """A backbone without its tensors. name: as configured. architecture: what else its network is made from.

    precision: of its arithmetic; with int8 the architecture has `scales`, of the activations.
    """

    name: str
    size: int
    image_size: int
    weights: PretrainedWeights
    architecture: dict[str, Any] = field(default_factory=dict)
    precision: Precision = Precision.AUTO


class FrozenBackbone:
    """A network (B, S, S, 3) uint8 -> (B, size), in evaluation mode, without gradients."""

    def __init__(self, network: nn.Module, description: Description) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.size, self.image_size, self.weights = description.size, description.image_size, description.weights
        self.description = description
        self.batch = MicrobatchRunner(batch_size(next(network.parameters()).device), "photo features")

    def features(self, pixels: NDArray) -> NDArray:
        """Compute (N, S, S, 3) uint8 prepared photos -> (N, size) fp16; on a CPU the same alone and in any batch."""
        (features,) = self.run_in_batches(pixels, lambda photos: (self.network(photos),))
        return features

    @torch.inference_mode()
    def run_in_batches(self, pixels: NDArray, forward: Callable[[Tensor], tuple[Tensor, ...]]) -> list[NDArray]:
        """Run (N, S, S, 3) uint8 prepared photos -> each of the outputs of `forward`, N rows, fp16."""
        shape = (self.image_size, self.image_size, 3)
        if pixels.shape[1:] != shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"photos of shape {pixels.shape[1:]} and type {pixels.dtype} for {self.description.name}, which reads "
                f"{shape} in uint8: prepare them with prepare_photos(photos, image_size={self.image_size})"
            )
        photos = pixels if len(pixels) else np.zeros((1, *shape), np.uint8)  # one photo for the shapes
        device = next(self.network.parameters()).device

        def run_part(start: int, end: int) -> list[Tensor]:
            with autocast(device, self.description.precision):
                outputs = forward(torch.from_numpy(photos[start:end].copy()).to(device))
            return [tensor.float().clamp(-LARGEST, LARGEST).half() for tensor in outputs]

        # copied from the device at the end: copying each batch would make a GPU wait
        parts = self.batch.iter_chunks(len(photos), run_part)
        return [torch.cat(tensors).cpu().numpy()[: len(pixels)] for tensors in zip(*parts, strict=True)]

    def save(self, folder: Path) -> None:
        """Write backbone.safetensors and backbone.json."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(tensors, folder / TENSORS)
        (folder / DESCRIPTION).write_text(json.dumps(self.description.to_dict(), indent=2))


class Normalised(nn.Module):
    """A network that was made for normalised photos, applied to prepared ones."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """mean, deviation: of red, green and blue, from 0 to 1."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(deviation).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, size)"""
        photos = pixels.permute(0, 3, 1, 2)  # (B, 3, S, S), channels_last
        return self.network((photos - self.mean) / self.deviation).flatten(1)


def feature_size(network: nn.Module, name: str, image_size: int) -> int:
    """Count the features of a photo of that image_size, by shapes alone, on the meta device.

    Raises ValueError if it cannot read such a photo.
    """
    photo = torch.empty(1, image_size, image_size, 3, dtype=torch.uint8, device="meta")
    try:
        with torch.inference_mode():
            return network.to("meta").eval()(photo).shape[1]
    except Exception as error:  # networks name no closed set of errors for other image sizes
        raise ValueError(
            f"photo.image_size={image_size}: {name} cannot read photos of {image_size} pixels ({error}): "
            "leave photo.image_size out"
        ) from error


def batch_size(device: torch.device) -> int:
    """Return how many photos to run at once in inference.

    On a CPU one: fp32 kernels round otherwise at other batch sizes, and larger maps of VGG16 do not fit into the cache.
    """
    return 128 if device.type == "cuda" else 1


def read_saved(folder: Path) -> tuple[Description, dict[str, Tensor]]:
    """Read the files of `FrozenBackbone.save`. Raises FileNotFoundError if one is missing."""
    try:
        return Description.from_json((folder / DESCRIPTION).read_text()), load_file(folder / TENSORS)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no backbone in {folder}: {error.filename or error} is missing, train again"
        ) from error
