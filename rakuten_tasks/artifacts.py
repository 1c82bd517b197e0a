"""What passes from one Flyte task to the next: frozen dataclasses of files and the facts about them.

Tasks return the types named Keyed...: Flyte then knows them by what they hold, so what depends on them is cached by
content, wherever the files lie and whichever run wrote them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from flytekit import HashMethod, current_context
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.classifier.machine import machine


def workspace() -> Path:
    """A new folder for a task's outputs. Its own: run locally, the items of a map task share one working directory."""
    return Path(tempfile.mkdtemp(dir=current_context().working_directory))


def local(file: FlyteFile | FlyteDirectory) -> Path:
    """Where the file lies on this machine, fetched first if it is elsewhere."""
    return Path(file.download())


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(inside for inside in path.rglob("*") if inside.is_file())
    return key_of({file.relative_to(path).as_posix(): content_hash(file) for file in files})


def key_of(value: object) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


KeyedFile = Annotated[FlyteFile, HashMethod(lambda file: content_hash(local(file)))]
KeyedFolder = Annotated[FlyteDirectory, HashMethod(lambda folder: content_hash(local(folder)))]


@dataclass(frozen=True)
class Run:
    """One training: its parent run in MLflow, the registered model that it works for, the catalogue's address."""

    run_id: str
    model: str
    source: str


@dataclass(frozen=True)
class Source:
    """A catalogue that was looked at but not read yet; see catalogue/fingerprint.py."""

    address: str
    content: str
    listing: str


@dataclass(frozen=True)
class Shard:
    """Some products of a catalogue with their photos' bytes; columns in catalogue/schema.py."""

    products: FlyteFile
    rows: int
    sha256: str  # of rows and photos, whatever the file's encoding


@dataclass(frozen=True)
class Catalogue:
    """What was read of a catalogue. kept + quarantined = read."""

    content_hash: str
    codes: list[int]  # ascending; a class index is a position in it
    names: dict[str, str]  # code -> name for people; may be empty
    synthetic: bool
    quarantine: FlyteFile  # Parquet: each row that was not kept, with its reason
    summary: FlyteFile  # JSON: counts
    deck: FlyteFile

    @property
    def key(self) -> str:
        """What later stages read here: the rows have keys of their own."""
        return key_of([self.codes, self.names, self.synthetic])


@dataclass(frozen=True)
class Arrays:
    """One shard's model inputs: safetensors with row, label, side and the payload."""

    file: FlyteFile
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """The shard that lies there."""
        return cls(FlyteFile(str(path)), content_hash(path))


@dataclass(frozen=True)
class Branch:
    """A trained branch, ready for the bundle, and its epochs."""

    folder: FlyteDirectory
    sha256: str  # of the folder
    epochs: FlyteFile  # JSON list of training.Epoch
    deck: FlyteFile
    machine: str  # that trained it
    weights: str = ""  # tells the pretrained weights that it began with

    @classmethod
    def of(cls, folder: Path, epochs: FlyteFile, deck: FlyteFile, weights: str = "") -> Self:
        """The branch that was trained and saved here."""
        return cls(FlyteDirectory(str(folder)), content_hash(folder), epochs, deck, machine(), weights)


@dataclass(frozen=True)
class Fused:
    """How the branches are mixed, and the validation rows that it was chosen on."""

    fusion: FlyteFile  # JSON of fusion.Fusion
    reference: FlyteFile  # Parquet: validation rows with their scores
    sha256: str  # of both
    deck: FlyteFile


@dataclass(frozen=True)
class Evaluated:
    """What the test side showed, once."""

    evaluation: FlyteFile  # JSON of evaluation.Evaluation
    predictions: FlyteFile  # Parquet: row, productid, prdtypecode, predicted, confidence
    deck: FlyteFile


@dataclass(frozen=True)
class Registered:
    """The version that a training made. alias: champion or challenger; reason: the gate's sentence."""

    model: str
    version: int
    alias: str
    reason: str
    run_id: str
    deck: FlyteFile


KeyedSource = Annotated[Source, HashMethod(lambda source: source.content)]
KeyedShard = Annotated[Shard, HashMethod(lambda shard: shard.sha256)]
KeyedCatalogue = Annotated[Catalogue, HashMethod(lambda catalogue: catalogue.key)]
KeyedArrays = Annotated[Arrays, HashMethod(lambda arrays: arrays.sha256)]
KeyedBranch = Annotated[Branch, HashMethod(lambda branch: branch.sha256)]
KeyedFused = Annotated[Fused, HashMethod(lambda fused: fused.sha256)]
