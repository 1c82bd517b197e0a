"""`make register` as it is, on a stand-in for flyteadmin: other settings, a second person, an upgrade, a rollback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rakuten_tasks.runtime.schedules import SCHEDULES
from tests.support.flyte_admin import FlyteAdmin, flyte_admin

pytestmark = pytest.mark.timeout(1800)  # each registration serialises all workflows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[FlyteAdmin]:
    with flyte_admin() as (admin, port):
        url = f"[platform]\nurl = dns:///127.0.0.1:{port}\ninsecure = True\n"
        (tmp_path / "flyte.config").write_text(f"{url}[images]\ntask = registry.example/rakuten-task\n")
        yield admin


def make(folder: Path, *words: str, checkout: Path = ROOT, **environment: str) -> tuple[int, str]:
    """Run a make target. -> its status and output"""
    (folder / "venv").exists() or (folder / "venv").symlink_to(sys.prefix)
    places = {"FLYTE_DEFAULT_PROJECT": "shop", "FLYTE_DEFAULT_DOMAIN": "production", "HOME": str(folder)}
    variables = {**os.environ, **places, "MLFLOW_TRACKING_URI": "http://mlflow.example:5001", **environment}
    variables["PYTHONPATH"] = str(checkout)
    options = ["TAG=abc", f"VAR={folder}", f"FLYTE_CONFIG={folder}/flyte.config"]
    command = ["make", "--no-print-directory", *words, *options]
    done = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def register(folder: Path, *words: str, checkout: Path = ROOT, **environment: str) -> str:
    """-> the version"""
    status, output = make(folder, "register", *words, checkout=checkout, **environment)
    assert status == 0, output
    return re.search(r"^version (\S+) for ", output, re.M)[1]


def test_other_settings_are_another_version_and_what_was_registered_before_stays(admin, tmp_path):
    first = register(tmp_path, "PROFILE=cpu")
    status, output = make(tmp_path, "activate", "PROFILE=cpu")
    assert (status, admin.active()) == (0, dict.fromkeys(SCHEDULES, first)), output
    before = dict(admin.contents)
    assert register(tmp_path, "PROFILE=cpu") == first
    assert admin.contents == before
    # a second person, with a checkout of the same commit
    for name in ("rakuten_tasks", "workflows"):
        shutil.copytree(ROOT / name, tmp_path / "second" / name)
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path / "second")
    other = register(tmp_path, "PROFILE=cpu", checkout=tmp_path / "second")
    assert other != first
    # of a task's template, and of a launch plan's inputs
    settings: dict[str, Any] = {"RAKUTEN_CPU_MEMORY": "3Gi", "RAKUTEN_STORE": "s3://shop/rakuten"}
    second = register(tmp_path, "PROFILE=cpu", **settings)
    assert second not in (first, other)
    assert admin.versions("task") == admin.versions("launch plan") == {first, other, second}
    assert admin.contents.items() >= before.items()
    assert admin.active() == dict.fromkeys(SCHEDULES, first)
    assert make(tmp_path, "activate", "PROFILE=cpu", **settings)[0] == 0
    assert admin.active() == dict.fromkeys(SCHEDULES, second)
    status, output = make(tmp_path, "activate", f"VERSION={first}")
    assert (status, admin.active()) == (0, dict.fromkeys(SCHEDULES, first)), output
    # what Flyte would have answered to all of these
    status, output = make(tmp_path, "register", "PROFILE=gpu", f"VERSION={first}")
    assert status != 0
    assert f"Error: version {first} is registered with another content" in output
    assert admin.active() == dict.fromkeys(SCHEDULES, first)
    assert make(tmp_path, "deactivate")[0] == 0
    assert admin.active() == {}
