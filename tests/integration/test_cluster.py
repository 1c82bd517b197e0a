"""The commands that bring the workflows to a cluster, where there is none."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rakuten_tasks.runtime import cluster, flyte_version
from rakuten_tasks.runtime.pod_settings import POD_VARIABLES
from rakuten_tasks.runtime.schedules import PLAN_VARIABLES, SCHEDULES

ROOT = Path(__file__).parents[2]
REACHED = "http://mlflow.example:5001"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """What would be run, and with which profile."""
    ran: list[tuple[list[str], str]] = []

    def run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
        ran.append((command[1:], environment["RAKUTEN_POD_PROFILE"]))
        return 0, ""

    monkeypatch.setattr(cluster, "run_command", run)
    monkeypatch.setenv(cluster.TRACKING, REACHED)
    return ran


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """A flyte.config of somebody who listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield config(tmp_path, server.getsockname()[1])


def config(folder: Path, port: int) -> Path:
    path = folder / "flyte.config"
    url = f"[platform]\nurl = dns:///127.0.0.1:{port}\ninsecure = True\n"
    path.write_text(f"{url}[images]\ntask = registry.example:30000/rakuten-task:latest\n")
    return path


@pytest.fixture
def deserted(tmp_path: Path) -> Path:
    """A flyte.config of nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return config(tmp_path, port)


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cluster.cluster, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_all_is_registered_in_the_version_and_profile_that_are_asked_for(commands, listening):
    code, said = run("register", "--config", listening, "--tag", "abc", "--version", "v7", "--profile", "cpu")
    assert (code, said) == (0, "version v7 for CPU pods: workflows and launch plans are registered\n")
    image = "registry.example:30000/rakuten-task:abc"
    named = ["--image", f"task={image}", "--env", f"FLYTE_INTERNAL_IMAGE={image}"]
    expected = ["-c", str(listening), "register", *named, "--copy", "none", "--version", "v7", "workflows"]
    assert commands == [(expected, "cpu")]


def test_where_no_cluster_answers_registering_fails_unless_a_dry_run_is_asked_for(commands, deserted):
    code, said = run("register", "--config", deserted, "--image", "registry.example/mine", "--version", "v7")
    assert (code, commands) == (1, [])
    assert "no Flyte cluster answers at 127.0.0.1:" in said
    assert said.endswith("; DRY_RUN=1 lists what would be registered\n")
    options = ("--image", "registry.example/mine", "--tag", "abc", "--version", "v7", "--dry-run")
    code, said = run("register", "--config", deserted, *options)
    assert (code, said) == (0, "version v7 for GPU pods: workflows and launch plans would be registered\n")
    ((command, profile),) = commands
    assert (command[-2:], profile) == (["--dry-run", "workflows"], "gpu")
    assert "task=registry.example/mine:abc" in command


IMAGE = "registry.example/rakuten-task:abc"


def test_a_version_is_of_the_tag_the_profile_and_all_settings_that_templates_hold(monkeypatch):
    for name in (*POD_VARIABLES, *PLAN_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    version = flyte_version.flyte_version("abc", "cpu", IMAGE)
    assert re.fullmatch(r"abc-cpu-[0-9a-f]{8}", version)
    assert flyte_version.flyte_version("abc", "cpu", IMAGE) == version
    others = {flyte_version.flyte_version("abc", "gpu", IMAGE), flyte_version.flyte_version("abc", "cpu", "other:abc")}
    changed = [name for name in (*POD_VARIABLES, *PLAN_VARIABLES) if name != flyte_version.PROFILE]
    for name in changed:
        with monkeypatch.context() as patch:
            patch.setenv(name, "http://mlflow.example:5001")
            others.add(flyte_version.flyte_version("abc", "cpu", IMAGE))
    for name in ("code_version", "version", "_repository", "ROOT"):
        with monkeypatch.context() as patch:
            patch.setattr(flyte_version, name, Path("/") if name == "ROOT" else lambda *_: "another")
            others.add(flyte_version.flyte_version("abc", "cpu", IMAGE))
    assert len(others - {version}) == 2 + len(changed) + 4
    monkeypatch.setenv("RAKUTEN_ACTIVATE", "1")  # registered again, the same version is activated
    monkeypatch.setenv("RAKUTEN_POD_PROFILE", "gpu")  # PROFILE= decides
    assert flyte_version.flyte_version("abc", "cpu", IMAGE) == version


def test_no_workflow_reads_another_variable_than_those_of_the_version():
    for path in (ROOT / "workflows").glob("*.py"):
        reads = re.findall(r".*os\.environ.*", path.read_text())
        assert all("for name in PLAN_VARIABLES" in line for line in reads), path


def test_at_one_commit_the_version_follows_the_settings_and_the_image_does_not(commands, listening, monkeypatch):
    def named() -> tuple[str, str, set[str]]:
        commands.clear()
        for command in ("register", "train"):
            assert run(command, "--config", listening, "--tag", "abc")[0] == 0
        (register, _), (train, _) = commands
        version = register[register.index("--version") + 1]
        (handed,) = [word for word in train if word.startswith("RAKUTEN_VERSION=")]
        return version, handed.partition("=")[2], {word for word in (*register, *train) if word.startswith("task=")}

    first = named()
    monkeypatch.setenv("RAKUTEN_GPU_MEMORY", "6Gi")
    second = named()
    assert first[0] == first[1] != second[0] == second[1]
    assert first[2] == second[2] == {"task=registry.example:30000/rakuten-task:abc"}


def test_a_version_that_flyte_refuses_is_explained_in_one_line(commands, listening, monkeypatch):
    refusal = "RPC Failed\n\tDetails: task with different structure already exists:\n"
    monkeypatch.setattr(cluster, "run_command", lambda *_: (1, refusal))
    code, said = run("register", "--config", listening, "--tag", "abc", "--version", "v7")
    assert code == 1
    assert said.startswith("Error: version v7 is registered with another content, and Flyte never changes a version: ")
    monkeypatch.setattr(cluster, "run_command", lambda *_: (3, "another error"))
    assert run("register", "--config", listening, "--tag", "abc", "--version", "v7") == (3, "")


def test_the_output_of_pyflyte_is_shown_and_returned(capsys):
    status, output = cluster.run_command([sys.executable, "-c", "print('é'); raise SystemExit(2)"], dict(os.environ))
    assert (status, output) == (2, "é\n") == (2, capsys.readouterr().out)


@pytest.mark.parametrize("address", ["", "sqlite:////var/mlflow.db", "http://localhost:5001"])
def test_pods_are_not_registered_without_a_tracking_server_that_they_reach(commands, listening, monkeypatch, address):
    monkeypatch.setenv(cluster.TRACKING, address)
    for command in ("register", "train"):
        code, said = run(command, "--config", listening, "--tag", "abc")
        assert code == 1
        assert f"MLFLOW_TRACKING_URI={address!r} cannot be reached from a pod: set it to" in said
    assert commands == []
    code, said = run("register", "--config", listening, "--version", "v7", "--dry-run")
    assert (code, len(commands)) == (0, 1)
    assert "warning: MLFLOW_TRACKING_URI" in said


def test_a_training_on_the_cluster_takes_no_folder_of_this_machine(commands, listening):
    code, said = run("train", "--config", listening, "--tag", "abc", "--source", "my/catalogue")
    assert (code, commands) == (1, [])
    assert "SOURCE='my/catalogue': pods share no machine, only an object store" in said
    code, _ = run("train", "--config", listening, "--tag", "abc", "--source", "s3://shop/catalogue", "--model", "m")
    ((command, _),) = commands
    assert code == 0
    assert command[2:5] == ["run", "--remote", "--image"]
    assert command[10:12] == ["workflows/training.py", "train_classifier"]
    assert command[12:] == ["--source", "s3://shop/catalogue", "--config", "configs/default.yaml", "--model", "m"]


@pytest.mark.parametrize("command", ["train", "activate", "deactivate"])
def test_what_needs_a_cluster_says_how_to_get_one(commands, deserted, command):
    code, said = run(command, "--config", deserted)
    assert (code, commands) == (1, [])
    assert "`flytectl demo start` starts one here" in said


def test_the_address_of_a_cluster_is_told_with_and_without_port(tmp_path):
    assert cluster.cluster_address(str(ROOT / "flyte.config")) == "localhost:30080"
    path = tmp_path / "flyte.config"
    path.write_text("[platform]\nurl = flyte.example.org\n")
    assert cluster.cluster_address(str(path)) == "flyte.example.org:443"
    path.write_text("[images]\n")
    with pytest.raises(click.ClickException, match=r"no `url` under \[platform\]"):
        cluster.cluster_address(str(path))


def test_the_tag_is_gits_version_and_another_as_soon_as_a_file_differs(tmp_path, monkeypatch):
    def git(*command: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *command], check=True)

    monkeypatch.setattr(flyte_version, "ROOT", tmp_path)
    with pytest.raises(click.ClickException, match="name the image's tag with TAG="):
        flyte_version.git_version()
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    clean = flyte_version.git_version()
    assert run("tag") == (0, f"{clean}\n")
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "a").write_text("2")
    changed = flyte_version.git_version()
    assert re.fullmatch(f"{clean}-[0-9a-f]{{8}}", changed)
    (tmp_path / "a").write_text("3")
    assert flyte_version.git_version() not in (clean, changed)
    (tmp_path / "a").write_bytes("café".encode("latin-1"))
    (tmp_path / "new.py").write_text("x = 1")
    added = flyte_version.git_version()
    (tmp_path / "new.py").write_text("x = 2")
    assert flyte_version.git_version() != added
    git("tag", "release/1.0+cpu")
    assert re.fullmatch("release-1.0-cpu-[0-9a-f]{8}", flyte_version.git_version())


@pytest.mark.parametrize(
    ("options", "address", "said"),
    [
        (("--tag", "a b/c"), "http://mlflow.example:5001", "TAG=a b/c: an image's tag has letters"),
        (("--image", "reg.example/x@sha256:abcd"), "http://mlflow.example:5001", "remove the digest"),
        ((), "http://user:secret@mlflow.example:5001", "holds a password"),
    ],
)
def test_what_no_image_or_task_should_hold_is_refused(monkeypatch, options, address, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    status, told = run("register", "--dry-run", *options)
    assert status == 1
    assert said in told
    assert "secret@" not in told


@pytest.mark.slow  # twelve seconds: flytekit serialises all
def test_make_register_is_a_dry_run_without_a_cluster(tmp_path):
    (tmp_path / "venv").symlink_to(sys.prefix)
    command = ["make", "--no-print-directory", "register", "PROFILE=cpu", "VERSION=v7", "DRY_RUN=1", f"VAR={tmp_path}"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, cluster.TRACKING: REACHED}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    registered = set(re.findall(r"Launch Plan: (\w+) \(Dry run Mode\)", done.stdout))
    assert registered == set(SCHEDULES)
    assert done.stdout.endswith("version v7 for CPU pods: workflows and launch plans would be registered\n")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("dns:///host:99999", "Port out of range"),
        ("dns:///host:port", "Port could not be cast"),
        ("dns:///[::1", "Invalid IPv6 URL"),
        ("dns:///", "names no host: dns:///HOST:PORT"),
    ],
)
def test_an_address_that_is_none_is_said_with_its_file(commands, tmp_path, url, said):
    path = tmp_path / "flyte.config"
    path.write_text(f"[platform]\nurl = {url}\n[images]\ntask = image\n")
    code, output = run("activate", "--config", path, "--version", "v7")
    assert (code, commands) == (1, [])
    assert f"{path}: [platform]" in output
    assert said in output
