"""Inputs and outputs of Flyte tasks: frozen dataclasses of files and their metadata.

Tasks return the types named Keyed...: Flyte then identifies a value by the hash of its content, so tasks that depend on
it are cached by content, wherever the files are and whichever run wrote them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from flytekit import HashMethod
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.data import shards
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.runtime.files import local, located
from rakuten_tasks.storage.local_files import hash_file, hash_json

KeyedFile = Annotated[FlyteFile, HashMethod(lambda file: hash_file(local(file)))]


@dataclass(frozen=True)
class Run:
    """One training: its parent run in MLflow, the model whose version it will register, the catalogue's address."""

    run_id: str
    model: str
    source: str


@dataclass(frozen=True)
class Source:
    """A catalogue's address and fingerprint, before it is read; see data/fingerprint.py. size: bytes of all files."""

    address: str
    content: str
    listing: str
    size: int


@dataclass(frozen=True)
class Shard:
    """Some products of a catalogue; see data/shards.py."""

    text: FlyteFile
    photos: FlyteFile
    rows: int
    sha256: str

    def fetch(self) -> shards.Shard:
        """Download both files."""
        return shards.Shard(local(self.text), local(self.photos), self.rows, self.sha256)

    def located(self) -> shards.Shard:
        """Return the shard where it is, to be read without downloading its files."""
        return shards.Shard(located(self.text), located(self.photos), self.rows, self.sha256)


@dataclass(frozen=True)
class Catalogue:
    """The ingested catalogue. kept + quarantined = read."""

    content_hash: str
    codes: list[int]  # ascending; a class index is a position in it
    names: dict[str, str]  # code -> name for people; may be empty
    synthetic: bool
    quarantine: FlyteFile  # Parquet: each unusable row, with the reason
    summary: FlyteFile  # JSON: counts
    deck: FlyteFile

    @property
    def key(self) -> str:
        """Hash of the fields that later stages read; the rows have keys of their own."""
        return hash_json([self.codes, self.names, self.synthetic])


@dataclass(frozen=True)
class Splits:
    """The permanent split of each title, and the assignments of the labelled rows that a training uses."""

    titles: FlyteFile  # Parquet, see data/splits.py
    # Parquet of the rows that the training uses: row, prdtypecode, shard (position), split (position in splits.SPLITS),
    # fold, has_photo
    assignments: FlyteFile
    rows: dict[str, list[int]]  # by split's name, the rows used and all labelled rows
    deck: FlyteFile
    sha256: str  # of titles and assignments


@dataclass(frozen=True)
class ResolvedConfig:
    """A configuration without `auto`, and the pretrained weights that it uses; None where there are none."""

    config: TrainingConfig
    text: PretrainedWeights | None
    photo: PretrainedWeights | None

    @property
    def pretrained(self) -> list[PretrainedWeights]:
        """List the weights of text and photo that are not None."""
        return [weights for weights in (self.text, self.photo) if weights is not None]


@dataclass(frozen=True)
class FeatureShard:
    """One shard's features: safetensors with `row` and the arrays of an extractor."""

    file: FlyteFile
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Hash the file."""
        return cls(FlyteFile(str(path)), hash_file(path))


@dataclass(frozen=True)
class StoredExtractor:
    """An extractor's folder. training_only: patterns of its files that a bundle does not need."""

    name: str
    folder: FlyteDirectory
    sha256: str
    training_only: list[str]


@dataclass(frozen=True)
class FittedMember:
    """A fitted member, its logits of rows that it was not fitted on, and the log of its fit."""

    name: str
    extractors: list[str]
    folder: FlyteDirectory  # fitted on everything but the test rows
    final: FlyteDirectory  # registered: `folder`, or fitted on every row
    scores: FlyteFile  # Parquet: row, stopping (see members.FitResult), a column of logits for each class index
    epochs: FlyteFile  # JSON list of training.EpochMetrics
    deck: FlyteFile
    machine: str  # hardware of the fit
    description: str  # for the model card
    sha256: str  # of folders and scores


@dataclass(frozen=True)
class FittedPool:
    """The fitted pool, and the validation rows of the drift reference."""

    pool: FlyteFile  # JSON of pool.Pool
    reference: FlyteFile  # Parquet: validation rows with the drift columns
    sha256: str  # of both
    deck: FlyteFile


@dataclass(frozen=True)
class EvaluationFiles:
    """Metrics and predictions of the test rows."""

    evaluation: FlyteFile  # JSON of evaluation.Evaluation
    predictions: FlyteFile  # Parquet: row, shard, productid, prdtypecode, predicted, confidence
    reference: FlyteFile  # Parquet: these rows with the drift columns
    deck: FlyteFile


@dataclass(frozen=True)
class RegisteredVersion:
    """The version that a training registered. alias: champion or challenger; reason: the gate's sentence."""

    model: str
    version: int
    alias: str
    reason: str
    run_id: str
    deck: FlyteFile


KeyedSource = Annotated[Source, HashMethod(lambda source: source.content)]
KeyedShard = Annotated[Shard, HashMethod(lambda shard: shard.sha256)]
KeyedCatalogue = Annotated[Catalogue, HashMethod(lambda catalogue: catalogue.key)]
KeyedArrays = Annotated[FeatureShard, HashMethod(lambda arrays: arrays.sha256)]
KeyedSplits = Annotated[Splits, HashMethod(lambda splits: splits.sha256)]
KeyedExtractor = Annotated[StoredExtractor, HashMethod(lambda stored: stored.sha256)]
KeyedMember = Annotated[FittedMember, HashMethod(lambda member: member.sha256)]
KeyedPool = Annotated[FittedPool, HashMethod(lambda pool: pool.sha256)]
