"""The bundle: one folder with everything that a prediction needs, and with its lineage.

bundle.json         schema version, label order, names, members, pool, configuration, lineage
extractors/NAME     products -> features: tokenizer, pretrained backbone, settings
members/NAME        features -> logits: safetensors, JSON
splits.parquet      title hash -> split, for this model and its descendants: a list and a rule, see data/splits.py
reference.parquet   validation and test rows with the columns of monitoring/columns.py, with which drift checks compare
test.parquet        predictions on the test rows
evaluation.json     metrics on the test rows
README.md           the model card
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.config_base import Strict
from rakuten_tasks.models.pool import Pool
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.storage.local_files import hash_folder

SCHEMA_VERSION = 2
MANIFEST = "bundle.json"
TITLE_SPLITS = "splits.parquet"
REFERENCE = "reference.parquet"
TEST = "test.parquet"
EVALUATION = "evaluation.json"
CARD = "README.md"
EXTRACTORS_FOLDER = "extractors"
MEMBERS_FOLDER = "members"
PREDICTOR_PARTS = (MANIFEST, EXTRACTORS_FOLDER, MEMBERS_FOLDER)  # all that predictor.py reads
MLFLOW_METADATA = "registered_model_meta"  # a file that MLflow adds to the folders that it downloads


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
    machine: str  # on which members' bits depend
    code: str  # hash of the package's files and its libraries' versions: two -dirty commits may differ
    pretrained: list[PretrainedWeights]


@dataclass(frozen=True)
class Manifest(Strict):
    """The content of bundle.json."""

    codes: list[int]  # ascending; a class index is a position in this list
    names: dict[str, str]  # code -> display name
    members: dict[str, list[str]]  # member -> the extractors it reads
    pool: Pool
    config: TrainingConfig
    lineage: Lineage
    schema_version: int = SCHEMA_VERSION

    def write(self, folder: Path) -> None:
        """Write bundle.json, which makes the folder a bundle: after all other files."""
        (folder / MANIFEST).write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read bundle.json. Raises FileNotFoundError if it is missing, ValueError if its schema version is another."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {MANIFEST}: it is not a bundle of this package, train one")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if (version := manifest.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this code reads {SCHEMA_VERSION}: "
            "use the package version that wrote it, or train again"
        )
    return Manifest.from_dict(manifest)


def bundle_hash(folder: Path) -> str:
    """Hash the names and contents of a bundle's files; a registered version has the hash as a tag."""
    return hash_folder(folder, leave_out=MLFLOW_METADATA)
