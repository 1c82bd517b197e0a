"""Folders of models as transformers saves them: local or from the Hugging Face hub, identified by their content.

Only safetensors are read, as other formats are pickles; code that a model brings along is never run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from rakuten_tasks.models.downloads import ANSWER, CONNECT, first_line, innermost, within
from rakuten_tasks.models.pretrained import UNKNOWN, PretrainedWeights
from rakuten_tasks.storage.local_files import hash_file, hash_json
from rakuten_tasks.training.oom import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

PREFIX = "hf:"
CONFIG, README = "config.json", "README.md"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelKind:
    """Text encoders, or photo backbones.

    option: the key of the configuration that names the model. files: patterns of all files, besides the weights, on
    which a feature depends. processor: how transformers calls what prepares the input; processor_files: one of them
    describes it.
    """

    option: str
    files: tuple[str, ...]
    processor: str
    processor_files: tuple[str, ...]


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine's disk. name: `hf:` and the hub's name or the path. commit: the hub's; else empty."""

    kind: ModelKind
    path: Path
    name: str
    commit: str = ""

    def files(self) -> list[Path]:
        """List all files on which a feature depends."""
        small = [path for pattern in self.kind.files for path in sorted(self.path.glob(pattern)) if path.is_file()]
        return [*small, *self.weight_files()]

    def weight_files(self) -> list[Path]:
        """List the safetensors, and their index if there are several; empty if one of them is missing."""
        paths = [self.path / WEIGHTS]
        if not paths[0].is_file() and (index := self.path / INDEX).is_file():
            paths = [index, *(self.path / name for name in sorted(set(self.read_json(INDEX)["weight_map"].values())))]
        return paths if all(path.is_file() for path in paths) else []

    def missing_file(self) -> str:
        """Return the name of a file without which the model is incomplete, or ""."""
        if not (self.path / CONFIG).is_file():
            return CONFIG
        if not self.weight_files():
            return WEIGHTS
        present = any((self.path / name).is_file() for name in self.kind.processor_files)
        return "" if present else self.kind.processor_files[0]

    def require_complete(self) -> Self:
        """Return the folder itself. Raises FileNotFoundError if a file is missing."""
        if name := self.missing_file():
            raise FileNotFoundError(
                f"{self.kind.option}={self.name!r}: {self.path} has no {name}: put a model there as "
                f"model.save_pretrained(FOLDER) and {self.kind.processor}.save_pretrained(FOLDER) of transformers "
                "write it"
            )
        return self

    def sha256(self) -> str:
        """Hash names and contents of `files`; takes a second or two per gigabyte."""
        return hash_json({path.relative_to(self.path).as_posix(): hash_file(path) for path in self.files()})

    def pretrained(self) -> PretrainedWeights:
        """Describe the weights, with their hash."""
        source = f"{self.name}@{self.commit}" if self.commit else str(self.path)
        return PretrainedWeights(self.name, source, self._licence(), self.sha256())

    def _licence(self) -> str:
        """Read it from the metadata of README.md, which the hub requires."""
        from huggingface_hub import metadata_load

        readme = self.path / README
        metadata = (metadata_load(readme) or {}) if readme.is_file() else {}
        return str(metadata.get("license_name") or metadata.get("license") or UNKNOWN)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file; empty if there is none."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def read_network(self) -> tuple[PreTrainedModel, bool]:
        """Read the network in fp32, and whether its pooling layer was trained, which not all models need.

        Raises ValueError if transformers cannot read it, or if weights other than the pooling layer's are missing.
        """
        from transformers import AutoModel

        with self.clear_errors("network"):
            model, loading = AutoModel.from_pretrained(
                self.path,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
        missing = sorted(str(key) for key in (*loading["missing_keys"], *loading["mismatched_keys"]))
        if required := [key for key in missing if "pooler" not in key]:
            raise ValueError(
                f"{self.path} lacks weights of its network, {required[0]} and {len(required) - 1} more: "
                "save the model again"
            )
        return model, not missing

    @contextmanager
    def clear_errors(self, part: str) -> Iterator[None]:
        """Turn whatever transformers raises into one ValueError, but for a lack of memory."""
        import transformers

        try:
            with quiet_transformers():
                yield
        except Exception as error:  # of no closed set
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{self.kind.option}={self.name!r}: transformers {transformers.__version__} cannot load the {part} in "
                f"{self.path} ({first_line(error)}): choose a model that it knows without code of the model's own"
            ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress progress bars and the report of missing pooling weights, and restore torch's random numbers."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def find_model(kind: ModelKind, name: str, revision: str) -> ModelFolder:
    """Find `hf:FOLDER`, or `hf:NAME` in the hub's cache, downloading it if necessary.

    Raises FileNotFoundError if there is no such model, within ten seconds where there is no network, and ValueError if
    a folder is given a revision.
    """
    repository = name.removeprefix(PREFIX)
    folder = Path(repository).expanduser()
    if folder.is_dir():
        if revision:
            option = f"{kind.option.partition('.')[0]}.revision"
            raise ValueError(f"{option}={revision!r}: {folder} is a folder, which has none: leave it out")
        folder = folder.resolve()
        return ModelFolder(kind, folder, f"{PREFIX}{folder}").require_complete()
    if repository.startswith(("/", ".", "~")) or repository.count("/") > 1:
        raise FileNotFoundError(f"{kind.option}={name!r}: there is no folder {folder}: correct the path")
    return _hub_model(kind, repository, revision).require_complete()


def _hub_model(kind: ModelKind, repository: str, revision: str) -> ModelFolder:
    """Ask the hub which commit a branch is at; a commit that is in the cache needs no network."""
    from huggingface_hub import HfApi

    if COMMIT.fullmatch(revision) and (cached := _cached_model(kind, repository, revision)):
        return cached
    try:
        model = within(ANSWER, lambda: HfApi().model_info(repository, revision=revision or None, timeout=CONNECT))
        return _download_model(kind, repository, str(model.sha))
    except Exception as error:  # of the hub's client, of HTTP, of the network
        if cached := _cached_model(kind, repository, revision):
            log.warning(
                "%s: the hub did not answer (%s): using commit %s of its cache",
                repository, innermost(error), cached.commit,
            )  # fmt: skip
            return cached
        at = f" at revision {revision}" if revision else ""
        raise FileNotFoundError(
            f"{kind.option}={PREFIX + repository!r} is neither a folder nor a model in the hub's cache{at}, and cannot "
            f"be downloaded from the hub ({innermost(error)}): correct the name, or download it where there is a "
            f"network (hf download {repository} --local-dir FOLDER) and set {kind.option} to {PREFIX}FOLDER"
        ) from error


def _cached_model(kind: ModelKind, repository: str, revision: str) -> ModelFolder | None:
    try:
        model = _download_model(kind, repository, revision or "main", local=True)
    except (OSError, ValueError):
        return None
    return None if model.missing_file() else model


def _download_model(kind: ModelKind, repository: str, revision: str, local: bool = False) -> ModelFolder:
    """Download the model, or only find it in the hub's cache if local."""
    from huggingface_hub import snapshot_download

    snapshot = snapshot_download(
        repository,
        revision=revision,
        allow_patterns=[*kind.files, README, INDEX, "model*.safetensors"],
        ignore_patterns=["*/*.safetensors"],  # the same weights for other runtimes
        local_files_only=local,
        etag_timeout=CONNECT,
    )
    path = Path(snapshot)
    return ModelFolder(kind, path, PREFIX + repository, commit=path.name)  # snapshots are named by their commit
