"""What passes from one Flyte task to the next: frozen dataclasses of files and the facts about them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from flytekit import current_context
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile


def workspace() -> Path:
    """A new folder for a task's outputs. Its own: run locally, the items of a map task share one working directory."""
    return Path(tempfile.mkdtemp(dir=current_context().working_directory))


def local(file: FlyteFile | FlyteDirectory) -> Path:
    """Where the file lies on this machine, fetched first if it is elsewhere."""
    return Path(file.download())


@dataclass(frozen=True)
class Run:
    """One training: its parent run in MLflow and the registered model that it works for."""

    run_id: str
    model: str


@dataclass(frozen=True)
class Shard:
    """Some products of a catalogue with their photos' bytes; columns in catalogue/schema.py."""

    products: FlyteFile
    rows: int
    sha256: str  # of rows and photos, whatever the file's encoding


@dataclass(frozen=True)
class Catalogue:
    """What was read of a catalogue. kept + quarantined = read."""

    source: str
    content_hash: str
    codes: list[int]  # ascending; a class index is a position in it
    names: dict[str, str]  # code -> name for people; may be empty
    synthetic: bool
    quarantine: FlyteFile  # Parquet: each row that was not kept, with its reason
    summary: FlyteFile  # JSON: counts


@dataclass(frozen=True)
class Arrays:
    """One shard's model inputs: safetensors with row, label, side and the payload."""

    file: FlyteFile


@dataclass(frozen=True)
class Branch:
    """A trained branch, ready for the bundle, and its epochs."""

    folder: FlyteDirectory
    epochs: FlyteFile  # JSON list of training.Epoch


@dataclass(frozen=True)
class Fused:
    """How the branches are mixed, and the validation rows that it was chosen on."""

    fusion: FlyteFile  # JSON of fusion.Fusion
    reference: FlyteFile  # Parquet: validation rows with their scores


@dataclass(frozen=True)
class Evaluated:
    """What the test side showed, once."""

    evaluation: FlyteFile  # JSON of evaluation.Evaluation
    predictions: FlyteFile  # Parquet: row, productid, prdtypecode, predicted, confidence


@dataclass(frozen=True)
class Registered:
    """The version that a training made. alias: champion or challenger; reason: the gate's sentence."""

    model: str
    version: int
    alias: str
    reason: str
    run_id: str
