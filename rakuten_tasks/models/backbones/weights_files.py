"""A file of weights, local or remote: its state dict, and its source, licence and hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from rakuten_tasks.models.downloads import first_line, hash_in_name, hub_file
from rakuten_tasks.models.pretrained import UNKNOWN, PretrainedWeights
from rakuten_tasks.storage.addresses import FILE, absolute, is_local, require_address
from rakuten_tasks.storage.local_files import hash_file

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# torchvision's README: pretrained models may have terms of their own, derived from the dataset they were trained on
TORCHVISION = "BSD-3-Clause (torchvision), ImageNet terms"
LICENCES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "CC-BY-NC-4.0"}


def read_state(path: str) -> Mapping[str, Tensor]:
    """Read the state dict of a .pth or .safetensors.

    Raises FileNotFoundError, or ValueError if the file holds anything else.
    """
    file = _local_file(path)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:  # of the disk, not of the content
        raise
    except Exception as error:  # the readers name no closed set of errors for other files
        raise ValueError(
            f"photo.weights_file {path} is not a {file.suffix} state dict ({first_line(error)}): get it anew"
        ) from error
    if not (isinstance(state, Mapping) and all(isinstance(tensor, Tensor) for tensor in state.values())):
        raise ValueError(f"photo.weights_file {path} holds more than a state dict: save model.state_dict() alone")
    return state


def require_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], path: str, model: str) -> None:
    """Raise ValueError if a tensor of the model is missing from the state dict, or has another shape there."""
    for name, shape in shapes.items():
        if name not in state or state[name].shape != shape:
            problem = f"has shape {tuple(state[name].shape)}" if name in state else "is missing"
            raise ValueError(
                f"{path} holds no weights of torchvision's {model}: {name} {problem}, wanted {tuple(shape)}: "
                "name a file with this model's state dict"
            )


def weights_of_file(name: str, path: str) -> PretrainedWeights:
    """Describe the file. name: the backbone's. The licence is in the metadata of a .safetensors.

    Raises FileNotFoundError, or ValueError if the file's name ends otherwise.
    """
    file = _local_file(path)
    licence = _licence(file) if file.suffix == ".safetensors" else UNKNOWN
    return PretrainedWeights(name, path, licence, hash_file(file))


def weights_of_url(name: str, published: WeightsEnum) -> PretrainedWeights:
    """Describe torchvision's file, downloaded if necessary. Raises FileNotFoundError if it cannot be downloaded.

    A file of that name in the cache folder with another sha256 is used, as torch.hub does, with a warning.
    """
    path = hub_file(published.url)
    weights = weights_of_file(name, str(path))
    expected = hash_in_name(path)
    if weights.sha256.startswith(expected):
        licence = LICENCES.get(published.meta.get("license", ""), TORCHVISION)
        return PretrainedWeights(name, published.url, licence, weights.sha256)
    warning = (
        f"{path} is not the file that torchvision publishes: its sha256 begins with {weights.sha256[:8]}, not "
        f"{expected}: delete it for a download of {published.url}"
    )
    return PretrainedWeights(name, weights.source, weights.licence, weights.sha256, warning)


def _local_file(path: str) -> Path:
    """Return the file itself, or a copy of a remote one in a temporary folder of this process."""
    if not path.endswith((".pth", ".safetensors")):
        raise ValueError(f"photo.weights_file {path}: name a .pth or a .safetensors file")
    missing = FileNotFoundError(
        f"photo.weights_file {path} does not exist: name a .pth or .safetensors of the backbone"
    )
    require_address(path)
    if not is_local(path):
        try:
            return Path(fsspec.open_local(f"simplecache::{path}", simplecache={"same_names": True}))
        except FileNotFoundError as error:
            raise missing from error
    file = Path(absolute(path.removeprefix(FILE)))
    if not file.is_file():
        raise missing
    return file


def _licence(file: Path) -> str:
    try:
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
    except SafetensorError:  # `read_state` describes it
        return UNKNOWN
    return metadata.get("licence") or metadata.get("license") or UNKNOWN
