"""Folders of image models as transformers saves them: local or from a hub."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rakuten_tasks.models.backbones.downloads import ANSWER, CONNECT, innermost, within
from rakuten_tasks.models.backbones.weights_files import UNKNOWN
from rakuten_tasks.models.pretrained import PretrainedWeights

log = logging.getLogger(__name__)

PREFIX = "hf:"
CONFIG, PREPARATION, JOINT = "config.json", "preprocessor_config.json", "processor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WANTED = (CONFIG, PREPARATION, JOINT, INDEX, "model*.safetensors", "README.md")
COMMIT = re.compile(r"[0-9a-f]{40}")
BYTE = 1 / 255


@dataclass(frozen=True)
class ModelFolder:
    """name: a hub's, or the whole path. revision: the hub's commit, empty for a folder of one's own.

    image_size, mean and deviation: of the photos that the model was made for; of red, green and blue, from 0 to 1.
    """

    path: Path
    name: str
    revision: str
    image_size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def weights(self) -> PretrainedWeights:
        """sha256: over the names and sha256 of all files that decide what the model sees."""
        digest = hashlib.sha256()
        read = [self.path / name for name in (CONFIG, PREPARATION, JOINT) if (self.path / name).exists()]
        for path in (*read, *weight_files(self.path)):
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        source = f"{PREFIX}{self.name}@{self.revision}" if self.revision else str(self.path)
        return PretrainedWeights(PREFIX + self.name, source, _licence(self.path), digest.hexdigest())


def find_folder(name: str, revision: str) -> ModelFolder:
    """A folder of that name, or a hub's model at that revision.

    Raises FileNotFoundError if there is neither, within ten seconds where there is no network, and ValueError if it is
    not an image model's.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision:
            raise ValueError(f"photo.revision={revision!r}: {folder} is a folder, which has none: leave it out")
        path, known = folder.resolve(), str(folder.resolve())
    elif name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"photo.backbone={PREFIX + name!r}: there is no folder {folder}")
    else:
        path, known = _hub_folder(name, revision), name
        revision = path.name  # snapshots are named by their commit
    if not (path / CONFIG).exists() or not weight_files(path):
        raise ValueError(
            f"{path} holds no {CONFIG} with {WEIGHTS}: no other format of weights is read: convert them by "
            "model.save_pretrained(folder) of transformers"
        )
    return ModelFolder(path, known, revision, *_preparation(path))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors, of one or several parts; none where one of them is missing."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    paths = [folder / name for name in names]
    return paths if all(path.exists() for path in paths) else []


def _hub_folder(name: str, revision: str) -> Path:
    """The model's folder in the hub's cache. A commit that is there whole is not asked for again."""
    from huggingface_hub import HfApi, snapshot_download

    def snapshot(commit: str, local: bool) -> Path:
        there = snapshot_download(
            name, revision=commit, allow_patterns=list(WANTED), local_files_only=local, etag_timeout=CONNECT
        )
        return Path(there)

    def cached() -> Path | None:
        try:
            folder = snapshot(revision or "main", local=True)
        except OSError:
            return None
        return folder if (folder / CONFIG).exists() and weight_files(folder) else None

    if COMMIT.fullmatch(revision) and (folder := cached()):
        return folder
    try:
        found = within(ANSWER, lambda: HfApi().model_info(name, revision=revision or None, timeout=CONNECT))
        return snapshot(str(found.sha), local=False)
    except Exception as error:  # of the hub's client, of HTTP, of the network
        if folder := cached():
            log.warning("%s: the hub was not asked (%s): commit %s of its cache", name, innermost(error), folder.name)
            return folder
        raise FileNotFoundError(
            f"photo.backbone={PREFIX + name!r} is no folder here and did not come from the hub "
            f"({innermost(error)}): name a folder with {CONFIG}, {PREPARATION} and {WEIGHTS} as {PREFIX}FOLDER"
        ) from error


def _preparation(folder: Path) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Side, mean and deviation. Raises ValueError if the folder does not say."""
    name = next((name for name in (PREPARATION, JOINT) if (folder / name).exists()), None)
    said: Mapping[str, Any] = json.loads((folder / name).read_text()) if name else {}
    said = said.get("image_processor", said)
    crop = said.get("crop_size") if said.get("do_center_crop", True) else None
    image_size = _image_size(crop or said.get("size"))
    if not image_size:
        raise ValueError(f"{folder} does not say which photos its model reads: put the model's {PREPARATION} there")
    scale = said.get("rescale_factor", BYTE) / BYTE if said.get("do_rescale", True) else 1 / BYTE
    normal = said.get("do_normalize", True)
    mean, deviation = (said.get("image_mean"), said.get("image_std")) if normal else ([0.0] * 3, [1.0] * 3)
    if not (mean and deviation):
        raise ValueError(f"{folder / str(name)} has no image_mean and image_std: take them from the model's page")
    return image_size, tuple(value / scale for value in mean), tuple(value / scale for value in deviation)


def _image_size(size: Any) -> int:
    """As transformers' versions write it: 224, {"shortest_edge": 224} or {"height": 224, "width": 224}."""
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return size if isinstance(size, int) else 0


def _licence(folder: Path) -> str:
    """What the front matter of README.md says."""
    from huggingface_hub import metadata_load

    readme = folder / "README.md"
    said = (metadata_load(readme) or {}) if readme.exists() else {}
    return str(said.get("license_name") or said.get("license") or UNKNOWN)
