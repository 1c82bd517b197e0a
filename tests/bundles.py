"""Bundles whose weights are drawn at random: made in a second, loaded and served like trained ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from mlflow import MlflowClient

from rakuten_tasks.classifier.bundle import EVALUATION, MANIFEST, Lineage, Manifest
from rakuten_tasks.classifier.fusion import Fusion
from rakuten_tasks.classifier.lstm import Shape, TextBranch
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.photo_training import new_branch
from rakuten_tasks.config import PhotoConfig, TextConfig, TrainingConfig
from rakuten_tasks.registry import champion

NAMES = {10: "livres", 1300: "drones", 2583: "piscine", 2705: "romans"}
TEXTS = [
    ("Piscine ronde", "Liner bleu et pompe pour piscine hors sol"),
    ("Drone quadricoptère", "Drone avec caméra et batterie de rechange"),
    ("Roman policier", "Un livre de poche en très bon état"),
    ("Chaussures homme", "Chaussures en cuir pour homme, taille 42"),
]


def write_bundle(folder: Path, seed: int = 0, side: int = 32, names: dict[int, str] | None = None) -> Path:
    """A bundle of two branches. Another seed gives other answers."""
    names = names or NAMES
    codes = sorted(names)
    config = TrainingConfig(text=TextConfig(ngram_bits=12, vocabulary_size=300), photo=PhotoConfig(side=side))
    vocabulary = Vocabulary.fit(lambda: iter(TEXTS), config.text)
    torch.manual_seed(seed)
    text = TextBranch(Shape(vocabulary.size, vocabulary.buckets, len(codes), 16, 16))
    torch.nn.init.normal_(text.bag.table)
    photo = new_branch(config.photo, len(codes))
    torch.nn.init.normal_(photo.upper.head.linear.weight, std=0.05)
    vocabulary.save(folder / "text")
    text.save(folder / "text")
    photo.save(folder / "photo")
    scores = {metric: {"value": 0.5, "low": 0.4, "high": 0.6} for metric in ("weighted_f1", "macro_f1", "accuracy")}
    (folder / EVALUATION).write_text(json.dumps({"systems": {"fused": scores}}))
    fusion = Fusion(
        temperatures={"text": 1.0, "photo": 1.0},
        weights={"text": 0.6, "photo": 0.4},
        fused_temperature=0.9,
        prior=[1 / len(codes)] * len(codes),
    )
    lineage = Lineage("tests", "0", True, "0", "none", "none", "none")
    Manifest(codes, {str(k): v for k, v in names.items()}, ["text", "photo"], fusion, config, lineage).write(folder)
    return folder


def of_schema(bundle: Path, version: int) -> Path:
    """The same bundle, as if another version of the package had written it."""
    manifest = bundle / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": version}))
    return bundle


def register(client: MlflowClient, model: str, bundle: Path) -> int:
    """A new version, which becomes the champion."""
    run = client.create_run(champion.experiment_id(client))
    version = champion.register(client, model, bundle, run.info.run_id, {})
    champion.promote(client, model, version, "tests", "a test")
    return version
