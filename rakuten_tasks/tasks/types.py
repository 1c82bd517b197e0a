"""Inputs and outputs of Flyte tasks: frozen dataclasses of files and facts about them.

Tasks return the types named Keyed...: Flyte then knows them by what they hold, so what depends on them is cached by
content, wherever the files lie and whichever run wrote them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from flytekit import HashMethod
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.runtime.files import content_hash, key_of, local

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
    """A catalogue that was looked at but not read yet; see data/fingerprint.py."""

    address: str
    content: str
    listing: str


@dataclass(frozen=True)
class Shard:
    """Some products of a catalogue with their photos' bytes; columns in data/schema.py."""

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
class Splits:
    """The split of each title, which never changes, and the split and fold of each labelled row."""

    titles: FlyteFile  # Parquet: title_hash, split; see data/splits.py
    assignments: FlyteFile  # Parquet: row, prdtypecode, split (position in splits.SPLITS), fold, has_photo
    sha256: str  # of both


@dataclass(frozen=True)
class ResolvedConfig:
    """A configuration whose weights are settled, and what they are; "" stands for those that are not pretrained."""

    config: TrainingConfig
    text: PretrainedWeights | None
    photo: PretrainedWeights | None


@dataclass(frozen=True)
class FeatureShard:
    """One shard's features: safetensors with `row` and what an extractor gives."""

    file: FlyteFile
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """The shard that lies there."""
        return cls(FlyteFile(str(path)), content_hash(path))


@dataclass(frozen=True)
class StoredExtractor:
    """An extractor as it lies in the bundle."""

    name: str
    folder: FlyteDirectory
    sha256: str


@dataclass(frozen=True)
class FittedMember:
    """A fitted member, what it said of rows before it had seen them, and how it was fitted."""

    name: str
    extractors: list[str]
    folder: FlyteDirectory  # fitted on everything but the test rows
    final: FlyteDirectory  # what is registered: `folder`, or fitted on every row
    scores: FlyteFile  # Parquet: row, stopping (see members.FitResult), a column of logits for each class index
    epochs: FlyteFile  # JSON list of training.EpochMetrics
    deck: FlyteFile
    machine: str  # that fitted it
    sha256: str  # of folders and scores


@dataclass(frozen=True)
class FittedPool:
    """How members become one answer, and the validation rows, as far as drift is measured against them."""

    pool: FlyteFile  # JSON of pool.Pool
    reference: FlyteFile  # Parquet: validation rows with the columns that drift is measured on
    sha256: str  # of both
    deck: FlyteFile


@dataclass(frozen=True)
class EvaluationFiles:
    """What the test split showed, once."""

    evaluation: FlyteFile  # JSON of evaluation.Evaluation
    predictions: FlyteFile  # Parquet: row, productid, prdtypecode, predicted, confidence
    reference: FlyteFile  # Parquet: these rows with the columns that drift is measured on
    deck: FlyteFile


@dataclass(frozen=True)
class RegisteredVersion:
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
KeyedArrays = Annotated[FeatureShard, HashMethod(lambda arrays: arrays.sha256)]
KeyedSplits = Annotated[Splits, HashMethod(lambda splits: splits.sha256)]
KeyedExtractor = Annotated[StoredExtractor, HashMethod(lambda stored: stored.sha256)]
KeyedMember = Annotated[FittedMember, HashMethod(lambda member: member.sha256)]
KeyedPool = Annotated[FittedPool, HashMethod(lambda pool: pool.sha256)]
