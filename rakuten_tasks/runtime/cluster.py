"""Commands for a Flyte cluster: register, train, activate launch plans."""

from __future__ import annotations

import configparser
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from flytekit.exceptions.base import FlyteException

from rakuten_tasks.console.terminal import prepare_streams
from rakuten_tasks.data.sample import SAMPLE
from rakuten_tasks.runtime import absent_libraries, activation
from rakuten_tasks.runtime.flyte_version import flyte_version, git_version
from rakuten_tasks.runtime.pod_env import is_local_address, require_object_store
from rakuten_tasks.runtime.pod_settings import PROFILE as POD_PROFILE

TRACKING = "MLFLOW_TRACKING_URI"
IMAGE_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
CONFIG = click.option("--config", "file", default="flyte.config", help="INI file with cluster and image")
IMAGE = click.option("--image", default="", help="image of the pods without its tag; empty: from the file")
TAG = click.option("--tag", default="", help="tag of the image; empty: the commit")
VERSION = click.option("--version", default="", help="empty: the tag, the profile and a hash of the settings")
PROFILE = click.option("--profile", type=click.Choice(["cpu", "gpu"]), default="gpu", help="cpu: no pod requests a GPU")


@click.group()
def cluster() -> None:
    """Run the pipelines on a cluster."""


@cluster.command()
@CONFIG
@IMAGE
@TAG
@VERSION
@PROFILE
@click.option("--dry-run", is_flag=True, help="list what would be registered, without contacting a cluster")
def register(file: str, image: str, tag: str, version: str, profile: str, dry_run: bool) -> None:
    """Register all workflows and launch plans. Those of other versions, and their executions, stay as they are."""
    if not dry_run:
        _require_cluster(file, "; DRY_RUN=1 lists what would be registered")
    _require_tracking_server(only_warn=dry_run)
    image = _tagged_image(file, image, tag)
    version = version or _version_of(image, profile)
    arguments = ["register", *_images(image), "--copy", "none", "--version", version]
    _pyflyte(file, profile, version, *arguments, *(["--dry-run"] if dry_run else []), "workflows")
    result = "would be registered" if dry_run else "are registered"
    click.echo(f"version {version} for {profile.upper()} pods: workflows and launch plans {result}")


@cluster.command()
@CONFIG
@IMAGE
@TAG
@PROFILE
@click.option("--source", default=SAMPLE, help="the catalogue: an address that pods reach, or the sample")
@click.option("--training", default="configs/default.yaml", help="the training's configuration")
@click.option("--model", default="", help="registered model")
def train(file: str, image: str, tag: str, profile: str, source: str, training: str, model: str) -> None:
    """Train on the cluster with the local code, and print the address of the execution."""
    if source != SAMPLE:
        try:
            require_object_store("SOURCE", source)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    _require_tracking_server(only_warn=False)
    _require_cluster(file)
    inputs = ["--source", source, "--config", training, "--model", model]
    image = _tagged_image(file, image, tag)
    version = _version_of(image, profile)
    # pyflyte registers under a hash of the files and of these options
    options = [*_images(image), "--env", f"RAKUTEN_VERSION={version}"]
    _pyflyte(file, profile, version, "run", "--remote", *options, "workflows/training.py", "train_classifier", *inputs)


@cluster.command()
@CONFIG
@IMAGE
@TAG
@VERSION
@PROFILE
def activate(file: str, image: str, tag: str, version: str, profile: str) -> None:
    """Activate the schedules of a registered version's launch plans; those of other versions stop."""
    _require_cluster(file)
    named = version or _version_of(_tagged_image(file, image, tag), profile)
    _show(activation.activate(activation.connect(file), named, complete=not version))


@cluster.command()
@CONFIG
def deactivate(file: str) -> None:
    """Stop the schedules of all launch plans; running executions go on."""
    _require_cluster(file)
    _show(activation.deactivate(activation.connect(file)))


@cluster.command("close-lost")
@CONFIG
def close_lost(file: str) -> None:
    """Close the trainings in MLflow whose executions are over, if the cluster answers; `make prune` closes old ones."""
    if not is_reachable(cluster_address(file)):
        return
    from rakuten_tasks.registry import runs, tracking  # two seconds to import

    is_over = partial(activation.is_over, activation.connect(file))
    try:
        click.echo(f"closed {runs.close_orphans(tracking.connect(), is_over)} trainings whose executions are over")
    except FlyteException as error:
        click.echo(f"warning: the Flyte cluster does not say which executions are over: {error}", err=True)


@cluster.command("tag")
def print_tag() -> None:
    """Print the default tag of the image: the commit, with a hash of uncommitted changes if there are any."""
    click.echo(git_version())


def _show(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            click.echo(line)
    except FlyteException as error:
        raise click.ClickException(f"the Flyte cluster refused: {error}") from error


def cluster_address(file: str) -> str:
    """Return host:port of `[platform] url`. Raises click.ClickException if the file has none."""
    config = configparser.ConfigParser()
    if not config.read(file):
        raise click.ClickException(f"{file}: no such file: set FLYTE_CONFIG= to the file with the cluster's address")
    if not config.has_option("platform", "url"):
        raise click.ClickException(f"{file}: no `url` under [platform]: see flyte.config for an example")
    address = config["platform"]["url"]
    try:
        url = urlsplit(f"//{address.rpartition('/')[2]}")
        host, port = url.hostname, url.port
        insecure = config.getboolean("platform", "insecure", fallback=False)
    except ValueError as error:
        raise click.ClickException(f"{file}: [platform]: {error}: see flyte.config for an example") from error
    if not host:
        raise click.ClickException(f"{file}: [platform] url = {address!r} names no host: dns:///HOST:PORT")
    return f"{host}:{port or (80 if insecure else 443)}"


def is_reachable(address: str, seconds: float = 3.0) -> bool:
    """Whether a TCP connection can be opened."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except OSError:
        return False
    return True


def _require_cluster(file: str, hint: str = "") -> None:
    if not is_reachable(address := cluster_address(file)):
        start = "`flytectl demo start` starts one here, or set another in"
        raise click.ClickException(f"no Flyte cluster answers at {address}: {start} {file}{hint}")


def _require_tracking_server(only_warn: bool) -> None:
    address = os.environ.get(TRACKING, "")
    url = urlsplit(address)
    if url.password:
        raise click.ClickException(
            f"{TRACKING} holds a password, which Flyte's console would show: remove it, and mount it in pods as a "
            "secret named MLFLOW_TRACKING_PASSWORD"
        )
    if url.scheme in ("http", "https") and not is_local_address(address):
        return
    message = (
        f"{TRACKING}={address!r} cannot be reached from a pod: set it to the address of an MLflow server, "
        "http://HOST:PORT"
    )
    if not only_warn:
        raise click.ClickException(message)
    click.echo(f"warning: {message}", err=True)


def _tagged_image(file: str, image: str, tag: str) -> str:
    """Return the image, by default the file's, tagged with the version of its code."""
    config = configparser.ConfigParser()
    config.read(file)
    image, tag = image or config.get("images", "task", fallback=""), tag or git_version()
    if not image:
        raise click.ClickException(f"{file}: no `task` under [images]: name the image there, or with IMAGE=")
    if "@" in image:
        raise click.ClickException(f"IMAGE={image}: remove the digest: the tag {tag} is the version of the code")
    if not IMAGE_TAG.fullmatch(tag):
        raise click.ClickException(f"TAG={tag}: an image's tag has letters, digits, _ . and - only")
    folder, slash, name = image.rpartition("/")
    return f"{folder}{slash}{name.partition(':')[0]}:{tag}"


def _version_of(image: str, profile: str) -> str:
    return flyte_version(image.rpartition(":")[2], profile, image)


def _images(image: str) -> Sequence[str]:
    # Flyte does not tell a pod its image, which a version's lineage names
    return ["--image", f"task={image}", "--env", f"FLYTE_INTERNAL_IMAGE={image}"]


def _pyflyte(file: str, profile: str, version: str, *arguments: str) -> None:
    """Run pyflyte and end with its status. If Flyte refuses the version, a line says why."""
    command = [str(Path(sys.executable).with_name("pyflyte")), "-c", file, *arguments]
    settings = {POD_PROFILE: profile, absent_libraries.REGISTERS: "1", "PYTHONUNBUFFERED": "1"}
    status, output = run_command(command, {**os.environ, **settings})
    if status and "different structure" in output:
        raise click.ClickException(
            f"version {version} is registered with another content, and Flyte never changes a version: "
            "leave VERSION= out, which makes one of the settings, or name a new one"
        )
    if status:
        sys.exit(status)


def run_command(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a command and show its output meanwhile. -> its status and its output"""
    lines = []
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, errors="replace", **options) as process:
        for line in process.stdout or ():
            click.echo(line, nl=False)
            lines.append(line)
    return process.returncode, "".join(lines)


if __name__ == "__main__":
    prepare_streams()
    cluster()
