"""make with a var/, a catalogue and a model whose names the shell, make or a reader of addresses would take apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from rakuten_tasks.registry import runs, tracking, versions
from tests.support.bundles import write_bundle
from tests.support.catalogues import write_catalogue
from tests.support.nasty_names import list_names

ROOT = Path(__file__).parents[2]
NAME = "my v?r é[x]#&;'*"


def make(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True)


def test_predictions_of_a_difficult_folder_lie_in_a_difficult_folder(tmp_path, monkeypatch):
    var, source = tmp_path / NAME, tmp_path / "shop::2026 100%20 $HOME"
    decoys = [tmp_path / "my", tmp_path / "shop"]
    write_catalogue(source, labelled=24, unlabelled=5)
    for folder in (var, *decoys):
        folder.mkdir()
    (var / "venv").symlink_to(sys.prefix)
    monkeypatch.setenv("RAKUTEN_VAR", str(var))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = tracking.connect()
    run_id = runs.start_parent("model é", {}, {})
    versions.register(client, "model é", write_bundle(tmp_path / "bundle"), run_id, {})
    versions.promote(client, "model é", 1, "me", "[/] it's $HOME")
    runs.finish_parent(run_id)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it
    options = [f"VAR={var}", "MODEL=model é", f"SOURCE={source}"]
    predicted = make("predict", *options)
    assert f"written to {var}/predictions/submission.csv" in predicted.stdout.replace("\n", ""), predicted.stdout[-600:]
    assert len(pd.read_csv(var / "predictions/submission.csv")) == 5
    assert "[/] it's $HOME" in make("versions", *options).stdout
    refused = make("predict", *options, "MODEL=o'k")
    assert refused.stderr.startswith('Error: model "o\'k": the name of a model has')
    assert refused.stderr.count("\n") == 2  # and make's own
    assert all(list_names(folder) == [] for folder in decoys)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([NAME, source.name, "my", "shop", "bundle"])
