"""The systems that benchmarks/serving.py compares: bundles, and the servers that hold them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.server_process import Process, free_port
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.bundle import EXTRACTORS_FOLDER, MANIFEST
from rakuten_tasks.models.extractors import PhotoExtractor
from rakuten_tasks.models.networks.onednn import is_int8_supported
from rakuten_tasks.preprocessing.photos import prepare_photos
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.training.hardware import choose_device
from tests.support.bundles import register

MODEL = "benchmark"
CALIBRATION = 64  # photos


def train(source: str, config: str, folder: Path) -> Path:
    """Train on the catalogue as `make train`. -> the champion's bundle"""
    from rakuten_tasks.registry import tracking, versions

    command: list[str | Path] = [
        Path(sys.executable).with_name("pyflyte"),
        "run",
        "workflows/training.py",
        "train_classifier",
    ]
    options: list[str | Path] = [
        "--source",
        source,
        "--config",
        config,
        "--model",
        MODEL,
        "--report",
        folder / "report.json",
    ]
    subprocess.run([*command, *options], check=True, env={**os.environ, "RAKUTEN_VAR": str(folder)})
    return versions.fetch_champion(tracking.connect(), MODEL, synthetic=False).folder


def without_cascade(bundle: Path, target: Path) -> Path:
    """Copy a bundle whose pool asks every member."""
    shutil.copytree(bundle, target)
    manifest = json.loads((target / MANIFEST).read_text())
    manifest["pool"].pop("thresholds", None)
    (target / MANIFEST).write_text(json.dumps(manifest))
    return target


def in_int8(bundle: Path, target: Path, photos: Sequence[Product]) -> Path | None:
    """Copy a bundle with VGG16 in int8 and the heads as they are, as fast as heads fitted on its features.

    None if the photos' backbone is another, or if the processor has no int8.
    """
    folder = Path(EXTRACTORS_FOLDER) / PhotoExtractor.name
    if not (is_int8_supported(choose_device()) and (bundle / folder).is_dir()):
        return None
    backbone = PhotoExtractor.load(bundle / folder, choose_device()).backbone
    if not isinstance(backbone, VGG16Backbone):
        return None
    some = [product.photo for product in photos[:CALIBRATION] if product.photo]
    shutil.copytree(bundle, target)
    backbone.quantise(prepare_photos(some, backbone.image_size)).save(target / folder)
    return target


def app(folder: Path, bundle: Path, model: str = MODEL) -> Process:
    """Start the app with its own var/ and model."""
    from rakuten_tasks.registry.tracking import connect

    register(connect(), model, bundle)
    port = free_port()
    settings = {"RAKUTEN_VAR": str(folder), "SERVE_PORT": str(port), "MODEL": model}
    return Process(["-m", "serving"], settings, "/ready", port)


def plain_endpoint(bundle: Path) -> Process:
    """Start the plain FastAPI endpoint."""
    port = free_port()
    return Process(["-m", "benchmarks.plain_endpoint", str(bundle), str(port)], {}, "/openapi.json", port)
