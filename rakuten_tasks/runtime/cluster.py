"""Commands for a Flyte cluster: register, train, activate launch plans."""

from __future__ import annotations

import configparser
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from rakuten_tasks.data.sample.generate import SAMPLE
from rakuten_tasks.runtime.pod_env import is_local_address, require_object_store
from rakuten_tasks.runtime.schedules import SCHEDULES

TRACKING = "MLFLOW_TRACKING_URI"
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # of an image
CONFIG = click.option("--config", "file", default="flyte.config", help="INI file that names cluster and image")
IMAGE = click.option("--image", default="", help="image of the pods without its tag; empty for the one of the file")
VERSION = click.option("--version", default="", help="empty for what git says")
PROFILE = click.option("--profile", type=click.Choice(["cpu", "gpu"]), default="gpu", help="cpu: no pod asks for a GPU")


@click.group()
def cluster() -> None:
    """The pipelines on a cluster."""


@cluster.command()
@CONFIG
@IMAGE
@VERSION
@PROFILE
@click.option("--dry-run", is_flag=True, help="show what would be registered, and ask no cluster")
def register(file: str, image: str, version: str, profile: str, dry_run: bool) -> None:
    """Register all workflows and launch plans; only as a dry run where no cluster answers."""
    address = cluster_address(file)
    if not dry_run and not is_reachable(address):
        click.echo(f"no Flyte cluster answers at {address} (see {file}): this is only a dry run", err=True)
        dry_run = True
    _require_tracking_server(only_warn=dry_run)
    version = version or git_version()
    arguments = ["register", *_images(file, image, version), "--copy", "none", "--version", version]
    _pyflyte(file, profile, *arguments, *(["--dry-run"] if dry_run else []), "workflows")
    said = "would be" if dry_run else "are"
    click.echo(f"version {version} for {profile.upper()} pods: workflows and launch plans {said} registered")


@cluster.command()
@CONFIG
@IMAGE
@VERSION
@PROFILE
@click.option("--source", default=SAMPLE, help="the catalogue: an address that pods reach, or the sample")
@click.option("--training", default="configs/default.yaml", help="the training's configuration")
@click.option("--model", default="", help="registered model")
def train(file: str, image: str, version: str, profile: str, source: str, training: str, model: str) -> None:
    """Train on the cluster, with the code as it is here, and say where to watch it."""
    if source != SAMPLE:
        _shared("SOURCE", source)
    _require_tracking_server(only_warn=False)
    _require_cluster(file)
    inputs = ["--source", source, "--config", training, "--model", model]
    images = _images(file, image, version or git_version())
    _pyflyte(file, profile, "run", "--remote", *images, "workflows/training.py", "train_classifier", *inputs)


@cluster.command()
@CONFIG
@VERSION
def activate(file: str, version: str) -> None:
    """Put the registered launch plans on their schedules; those of other versions stop."""
    _require_cluster(file)
    for plan in SCHEDULES:
        _pyflyte(file, "gpu", "launchplan", "--activate", plan, version or git_version())


@cluster.command("version")
def print_version() -> None:
    """The version that is registered unless another is named; the tag of its image."""
    click.echo(git_version())


def git_version() -> str:
    """The commit; with what differs from it, if anything does: Flyte takes each version once.

    Raises click.ClickException outside of a git checkout.
    """
    folder = Path(__file__).parents[2]

    def git(*command: str, given: str = "") -> str:
        options: dict[str, Any] = {"capture_output": True, "check": True, "text": True, "errors": "backslashreplace"}
        return subprocess.run(["git", *command], cwd=folder, input=given, **options).stdout.strip()

    try:
        commit = git("describe", "--always", "--tags", "--abbrev=12")
        added = git("ls-files", "--others", "--exclude-standard")
        changes = git("diff", "HEAD", "--binary") + added + git("hash-object", "--stdin-paths", given=added)
        # of a tag's name, what may stand in the tag of an image
        commit = re.sub(r"[^A-Za-z0-9_.-]", "-", commit)
        return f"{commit}-{git('hash-object', '--stdin', given=changes)[:8]}" if changes else commit
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.ClickException(f"git tells no version of {folder}: name one with VERSION=") from error


def cluster_address(file: str) -> str:
    """host:port of `[platform] url`. Raises click.ClickException where the file does not tell."""
    config = configparser.ConfigParser()
    if not config.read(file):
        raise click.ClickException(f"{file}: no such file: FLYTE_CONFIG= names the one that says where the cluster is")
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
    """Whether somebody listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except OSError:
        return False
    return True


def _require_cluster(file: str) -> None:
    if not is_reachable(address := cluster_address(file)):
        raise click.ClickException(
            f"no Flyte cluster answers at {address}: `flytectl demo start` starts one here, {file} names another"
        )


def _require_tracking_server(only_warn: bool) -> None:
    address = os.environ.get(TRACKING, "")
    url = urlsplit(address)
    if url.password:
        raise click.ClickException(
            f"{TRACKING} holds a password, which all who see a task would see: take it out, and give it to pods as a "
            "secret named MLFLOW_TRACKING_PASSWORD"
        )
    if url.scheme in ("http", "https") and not is_local_address(address):
        return
    said = (
        f"{TRACKING}={address!r} is nothing that a pod reaches: set it to an MLflow server's address as pods see it, "
        "http://HOST:PORT"
    )
    if not only_warn:
        raise click.ClickException(said)
    click.echo(f"warning: {said}", err=True)


def _shared(name: str, address: str) -> None:
    try:
        require_object_store(name, address)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _images(file: str, image: str, version: str) -> Sequence[str]:
    """By default the file's image, in this version: its tag is that of the code it holds."""
    config = configparser.ConfigParser()
    config.read(file)
    image = image or config.get("images", "task", fallback="")
    if not image:
        raise click.ClickException(f"{file}: no `task` under [images]: name the image there, or with IMAGE=")
    if "@" in image:
        raise click.ClickException(f"IMAGE={image}: without a digest: its tag is the version, {version}")
    if not TAG.fullmatch(version):
        raise click.ClickException(
            f"VERSION={version}: it is the tag of the image too: letters, digits, _ . and - only"
        )
    folder, slash, name = image.rpartition("/")
    image = f"{folder}{slash}{name.partition(':')[0]}:{version}"
    # nobody else tells a pod what it runs in, and a version's lineage names it
    return ["--image", f"task={image}", "--env", f"FLYTE_INTERNAL_IMAGE={image}"]


def _pyflyte(file: str, profile: str, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("pyflyte")), "-c", file, *arguments]
    done = subprocess.run(command, env={**os.environ, "RAKUTEN_POD_PROFILE": profile})
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    cluster()
