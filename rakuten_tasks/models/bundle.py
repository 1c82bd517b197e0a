"""The bundle: one folder that holds everything a prediction needs, and what it was made of.

bundle.json         schema version, label order, names, members, pool, configuration, lineage
extractors/NAME     what turns products into features: tokenizer, pretrained backbone, settings
members/NAME        what turns features into logits: safetensors, JSON
splits.parquet      title hash -> split, of every product this model and its ancestors were split on
reference.parquet   validation and test rows with the columns of monitoring/columns.py: what drift is measured against
test.parquet        predictions on the test rows
evaluation.json     metrics on the test rows
README.md           the model card
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from rakuten_tasks.config import Strict, TrainingConfig
from rakuten_tasks.models.pool import Pool
from rakuten_tasks.models.pretrained import PretrainedWeights

SCHEMA_VERSION = 2
MANIFEST = "bundle.json"
TITLE_SPLITS = "splits.parquet"
REFERENCE = "reference.parquet"
TEST = "test.parquet"
EVALUATION = "evaluation.json"
CARD = "README.md"
EXTRACTORS_FOLDER = "extractors"
MEMBERS_FOLDER = "members"
MLFLOWS = "registered_model_meta"  # MLflow's own note, in what it downloads


@dataclass(frozen=True)
class Lineage(Strict):
    """Where a bundle comes from."""

    catalogue: str
    catalogue_hash: str
    synthetic: bool
    git_commit: str
    image: str
    execution: str
    run_id: str
    machine: str  # that members' bits depend on
    code: str  # hash of the package's files and its libraries' versions: two -dirty commits may differ
    pretrained: list[PretrainedWeights]  # what networks began with


@dataclass(frozen=True)
class Manifest(Strict):
    """What bundle.json says."""

    codes: list[int]  # ascending; a class index is a position in it
    names: dict[str, str]  # code -> name for people
    members: dict[str, list[str]]  # member -> the extractors it reads
    pool: Pool
    config: TrainingConfig
    lineage: Lineage
    schema_version: int = field(default=SCHEMA_VERSION)

    def write(self, folder: Path) -> None:
        """Write bundle.json, which makes the folder a bundle: last, when all else is there."""
        (folder / MANIFEST).write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False))


def read_manifest(folder: Path) -> Manifest:
    """What the bundle says of itself.

    Raises FileNotFoundError if the folder is no bundle, ValueError if its schema version is not this code's.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {MANIFEST}: it is not a bundle of this package, train one anew")
    manifest = json.loads(path.read_text())
    if (found := manifest.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {found}, this code reads {SCHEMA_VERSION}: "
            "use the package version that wrote it, or train anew"
        )
    return Manifest.from_dict(manifest)


def bundle_hash(folder: Path) -> str:
    """SHA-256 of the names and contents of a bundle's files: a registered version tells its own, in a tag."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MLFLOWS):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{content} {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()
