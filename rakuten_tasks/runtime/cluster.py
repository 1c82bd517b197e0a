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
from rakuten_tasks.terminal import prepare_streams

TRACKING = "MLFLOW_TRACKING_URI"
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # of an image
CONFIG = click.option("--config", "file", default="flyte.config", help="INI file with cluster and image")
IMAGE = click.option("--image", default="", help="image of the pods without its tag; empty: from the file")
VERSION = click.option("--version", default="", help="empty: from git")
PROFILE = click.option("--profile", type=click.Choice(["cpu", "gpu"]), default="gpu", help="cpu: no pod requests a GPU")


@click.group()
def cluster() -> None:
    """Run the pipelines on a cluster."""


@cluster.command()
@CONFIG
@IMAGE
@VERSION
@PROFILE
@click.option("--dry-run", is_flag=True, help="list what would be registered, without contacting a cluster")
def register(file: str, image: str, version: str, profile: str, dry_run: bool) -> None:
    """Register all workflows and launch plans; a dry run if no cluster is reachable."""
    address = cluster_address(file)
    if not dry_run and not is_reachable(address):
        click.echo(f"no Flyte cluster answers at {address} (see {file}): this is only a dry run", err=True)
        dry_run = True
    _require_tracking_server(only_warn=dry_run)
    version = version or git_version()
    arguments = ["register", *_images(file, image, version), "--copy", "none", "--version", version]
    _pyflyte(file, profile, *arguments, *(["--dry-run"] if dry_run else []), "workflows")
    result = "would be registered" if dry_run else "are registered"
    click.echo(f"version {version} for {profile.upper()} pods: workflows and launch plans {result}")


@cluster.command()
@CONFIG
@IMAGE
@VERSION
@PROFILE
@click.option("--source", default=SAMPLE, help="the catalogue: an address that pods reach, or the sample")
@click.option("--training", default="configs/default.yaml", help="the training's configuration")
@click.option("--model", default="", help="registered model")
def train(file: str, image: str, version: str, profile: str, source: str, training: str, model: str) -> None:
    """Train on the cluster with the local code, and print the address of the execution."""
    if source != SAMPLE:
        try:
            require_object_store("SOURCE", source)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    _require_tracking_server(only_warn=False)
    _require_cluster(file)
    inputs = ["--source", source, "--config", training, "--model", model]
    images = _images(file, image, version or git_version())
    _pyflyte(file, profile, "run", "--remote", *images, "workflows/training.py", "train_classifier", *inputs)


@cluster.command()
@CONFIG
@VERSION
def activate(file: str, version: str) -> None:
    """Activate the schedules of the registered launch plans; those of other versions stop."""
    _require_cluster(file)
    for plan in SCHEDULES:
        _pyflyte(file, "gpu", "launchplan", "--activate", plan, version or git_version())


@cluster.command("version")
def print_version() -> None:
    """Print the default version, which is also the tag of the image."""
    click.echo(git_version())


def git_version() -> str:
    """Return the commit, with a hash of uncommitted changes if there are any: Flyte registers each version once.

    Raises click.ClickException outside of a git checkout.
    """
    folder = Path(__file__).parents[2]

    def git(*command: str, stdin: str = "") -> str:
        options: dict[str, Any] = {"capture_output": True, "check": True, "text": True, "errors": "backslashreplace"}
        return subprocess.run(["git", *command], cwd=folder, input=stdin, **options).stdout.strip()

    try:
        commit = git("describe", "--always", "--tags", "--abbrev=12")
        added = git("ls-files", "--others", "--exclude-standard")
        changes = git("diff", "HEAD", "--binary") + added + git("hash-object", "--stdin-paths", stdin=added)
        # replace characters that a git tag may have and an image's tag may not
        commit = re.sub(r"[^A-Za-z0-9_.-]", "-", commit)
        return f"{commit}-{git('hash-object', '--stdin', stdin=changes)[:8]}" if changes else commit
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.ClickException(f"git has no version of {folder}: name one with VERSION=") from error


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


def _require_cluster(file: str) -> None:
    if not is_reachable(address := cluster_address(file)):
        raise click.ClickException(
            f"no Flyte cluster answers at {address}: `flytectl demo start` starts one here, or set another in {file}"
        )


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


def _images(file: str, image: str, version: str) -> Sequence[str]:
    """Return options that name the image, by default the file's, tagged with the version of its code."""
    config = configparser.ConfigParser()
    config.read(file)
    image = image or config.get("images", "task", fallback="")
    if not image:
        raise click.ClickException(f"{file}: no `task` under [images]: name the image there, or with IMAGE=")
    if "@" in image:
        raise click.ClickException(f"IMAGE={image}: remove the digest: its tag is the version, {version}")
    if not TAG.fullmatch(version):
        raise click.ClickException(
            f"VERSION={version}: it is also the tag of the image: letters, digits, _ . and - only"
        )
    folder, slash, name = image.rpartition("/")
    image = f"{folder}{slash}{name.partition(':')[0]}:{version}"
    # Flyte does not tell a pod its image, which a version's lineage names
    return ["--image", f"task={image}", "--env", f"FLYTE_INTERNAL_IMAGE={image}"]


def _pyflyte(file: str, profile: str, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("pyflyte")), "-c", file, *arguments]
    done = subprocess.run(command, env={**os.environ, "RAKUTEN_POD_PROFILE": profile})
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    prepare_streams()
    cluster()
