"""make in a folder, with a var/ and with values whose names the shell or make would take apart."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.nasty_names import list_names

ROOT = Path(__file__).parents[2]
NAME = "my v?r é[x]#&;'*"
VALUES = ("SOURCE", "CONFIG", "MODEL", "VERSION", "REASON", "REFERENCE", "CURRENT", "DESTINATION", "FLYTE_CONFIG")


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a folder of a difficult name, without the code."""
    folder = tmp_path / NAME
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_an_installation_goes_into_var_alone(checkout, tmp_path):
    python = tmp_path / "python"
    pip = '#!/bin/sh\necho "$@" >> "$0.log"\n'
    python.write_text(f"""#!/bin/sh\nmkdir -p "$3/bin"\nprintf '%s' '{pip}' > "$3/bin/pip"\nchmod +x "$3/bin/pip"
cp "$0" "$3/bin"\n""")
    python.chmod(0o755)
    before = list_names(tmp_path)
    for _ in range(2):
        done = make(checkout, "setup", f"PYTHON={python}", "VAR=a  var")
        assert (done.returncode, done.stderr) == (0, "")
    log = checkout / "a  var/venv/bin/pip.log"
    assert log.read_text() == "install -qq --constraint constraints.txt --editable .[serve,task,dev]\n"
    added = [name for name in list_names(tmp_path) if name not in before]
    assert added
    assert all(name.startswith(f"{NAME}/a  var") for name in added)


@pytest.mark.parametrize("text", ["$", '"', "`", "\\", "%", "::"])
def test_a_var_folder_from_which_nothing_could_run_is_refused_in_one_line(text, checkout):
    before = list_names(checkout)
    for done in (make(checkout, "setup", f"VAR=/tmp/a{text}20b"), make(checkout, "setup", VAR=f"/tmp/a{text}20b")):
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f"VAR=/tmp/a{text}20b: {text} cannot be in its path: set VAR= to another folder" in done.stderr
    assert "a line break cannot be in its path" in make(checkout, "setup", "VAR=/tmp/a\nb").stderr
    assert list_names(checkout) == before


def test_values_reach_the_recipes_letter_by_letter(checkout):
    with (checkout / "Makefile").open("a") as file:
        shown = " ".join(f'"$${name}"' for name in VALUES)
        file.write(f"\nshow:\n\t@printf '%s|' {shown}\nboth: show\n\t@$(MAKE) --no-print-directory show\n")
    value = "/a b/c$d$$e%20`id`\"'(é)#?;&\\ [x]*\n::~"
    once = "".join(f"{value}|" for _ in VALUES)
    assert make(checkout, "both", *(f"{name}={value}" for name in VALUES)).stdout == 2 * once
    assert make(checkout, "both", **dict.fromkeys(VALUES, value)).stdout == 2 * once
