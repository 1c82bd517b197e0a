"""The README's first commands can be run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support.servers import serving

ROOT = Path(__file__).parents[2]


def make(target: str, var: Path, *options: str) -> str:
    command = ["make", "--no-print-directory", target, f"VAR={var}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A var/ of its own, with the environment that these tests run in."""
    folder = tmp_path_factory.mktemp("var")
    (folder / "venv").symlink_to(sys.prefix)
    return folder


@pytest.mark.timeout(1200)
def test_the_two_commands_of_the_first_screen_train_and_predict_the_sample(var):
    printed = make("train", var)
    assert "SYNTHETIC sample: test rows, with 95 % bootstrap intervals" in printed
    assert "registered rakuten-classifier-sample version 1, alias champion" in printed
    report = json.loads((var / "reports/training.json").read_text())
    f1 = {name: system["weighted_f1"]["value"] for name, system in report["evaluation"]["systems"].items()}
    assert f1["pool"] > max(f1["bag_encoder"], f1["vgg16"]) > 0.5
    assert "400 products predicted by rakuten-classifier-sample version 1" in make("predict", var)
    submission = pd.read_csv(var / "predictions/submission.csv", index_col=0)
    assert submission.index.tolist() == list(range(2400, 2800))
    assert "champion" in make("versions", var, "MODEL=rakuten-classifier-sample")
    with serving(var) as server:  # as `make api` does, with the configuration that the sample is trained with
        answer = server.predict({"description": "Chaussures en cuir pour homme"}).json()
        assert (answer["model"], answer["model_version"]) == ("rakuten-classifier-sample", "1")
        assert set(answer["members"]) == {"bag", "lstm", "encoder", "bag_encoder"}
        assert server.get("/info").json()["refit"] == "none"


def test_several_commands_at_once_on_a_fresh_machine_install_once(tmp_path):
    pip = f"#!/bin/sh\nsleep 1\necho installed >> {tmp_path}/count\n"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nmkdir -p "$3/bin"\ncat > "$3/bin/pip" << EOF\n{pip}EOF\nchmod +x "$3/bin/pip"\ncp $0 "$3/bin"\n'
    )
    python.chmod(0o755)
    command = ["make", "setup", f"VAR={tmp_path}/var", f"PYTHON={python}"]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "installed\n"
    (tmp_path / "var/venv/bin/python").unlink()  # the mark stays without what it marks
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    assert (tmp_path / "count").read_text() == "installed\ninstalled\n"
