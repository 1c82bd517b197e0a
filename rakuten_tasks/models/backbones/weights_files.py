"""A file of weights, local or remote: what it holds, and where it is from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor
from torchvision.models import WeightsEnum

from rakuten_tasks.models.backbones.downloads import first_line, hash_in_name, hub_file
from rakuten_tasks.models.pretrained import PretrainedWeights

UNKNOWN = "unknown"
# torchvision's README: pretrained models may have terms of their own, derived from the dataset they were trained on
TORCHVISION = "BSD-3-Clause (torchvision), ImageNet terms"
LICENCES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "CC-BY-NC-4.0"}
HEADER = 2**20  # bytes of safetensors' header that are looked at for a licence, at most


def read_state(path: str) -> Mapping[str, Tensor]:
    """The state dict of a .pth or .safetensors. Raises FileNotFoundError, or ValueError if it is none."""
    _require_known(path)
    with _opened(path) as file:
        try:
            if path.endswith(".safetensors"):
                return load_safetensors(file.read())
            held = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:  # of the store, not of what the file holds
            raise
        except Exception as error:  # the readers name no closed set of errors for other files
            raise ValueError(
                f"photo.weights_file {path} is not a {Path(path).suffix} state dict ({first_line(error)}): get it anew"
            ) from error
    if not (isinstance(held, Mapping) and all(isinstance(tensor, Tensor) for tensor in held.values())):
        raise ValueError(f"photo.weights_file {path} holds more than a state dict: save model.state_dict() alone")
    return held


def weights_of_file(name: str, path: str) -> PretrainedWeights:
    """name: the backbone's. The licence is what the metadata of a .safetensors says. Raises as `read_state`."""
    _require_known(path)
    with _opened(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        licence = _licence(file) if path.endswith(".safetensors") else UNKNOWN
    return PretrainedWeights(name, path, licence, sha256)


def weights_of_url(name: str, published: WeightsEnum) -> PretrainedWeights:
    """Of torchvision's file, downloaded if need be. Raises FileNotFoundError if it cannot be had.

    A file under that name in the cache folder whose sha256 is another is used, as torch.hub does, and said to be.
    """
    path = hub_file(published.url)
    held = weights_of_file(name, str(path))
    wanted = hash_in_name(path)
    if held.sha256.startswith(wanted):
        licence = LICENCES.get(published.meta.get("license", ""), TORCHVISION)
        return PretrainedWeights(name, published.url, licence, held.sha256)
    warning = (
        f"{path} is not the file that torchvision publishes: its sha256 begins with {held.sha256[:8]}, not {wanted}: "
        f"delete it for a download of {published.url}"
    )
    return PretrainedWeights(name, held.source, held.licence, held.sha256, warning)


def _require_known(path: str) -> None:
    if not path.endswith((".pth", ".safetensors")):
        raise ValueError(f"photo.weights_file {path}: name a .pth or a .safetensors file")


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        with fsspec.open(path, "rb") as file:
            yield file
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"photo.weights_file {path} does not exist: name a .pth or .safetensors of the backbone"
        ) from error


def _licence(file: Any) -> str:
    """What a .safetensors says in its header: eight bytes of length, then JSON."""
    length = int.from_bytes(file.read(8), "little")
    try:
        metadata = json.loads(file.read(length))["__metadata__"] if length <= HEADER else {}
        return str(metadata.get("licence") or metadata.get("license") or UNKNOWN)
    except (ValueError, KeyError, AttributeError):  # no header, or none with metadata: `read_state` tells which
        return UNKNOWN
