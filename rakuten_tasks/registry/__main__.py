"""Commands of the registry, for the Makefile: address, versions, lineage, promote, rollback, prune."""

from __future__ import annotations

import getpass
from datetime import timedelta

import click
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console
from rich.table import Table

from rakuten_tasks.console.options import Number
from rakuten_tasks.console.terminal import prepare_streams
from rakuten_tasks.registry import audit, pruning, runs, tracking, versions
from rakuten_tasks.registry.gate import DECISION

MODEL = click.option("--model", default="", help="registered model; empty for the one that has a champion")
RUNS = "runs:/"
REASON = click.option("--reason", default="", help="why, for the audit trail")


@click.group()
def registry() -> None:
    """Registered models, their versions and champions."""


@registry.command()
def address() -> None:
    """Create the MLflow store if it does not exist, and print its address."""
    tracking.connect()
    click.echo(tracking.tracking_uri())


@registry.command("versions")
@MODEL
def show_versions(model: str) -> None:
    """Print the versions of a model, and who moved its champion when and why."""
    client = tracking.connect()
    name = _resolve(model)
    table = Table("version", "aliases", "weighted F1", "why", title=name)
    for version in versions.list_versions(client, name):
        table.add_row(str(version.number), ", ".join(version.aliases), version.weighted_f1, version.reason)
    trail = Table("when (UTC)", "action", "from", "to", "by", "why", title="audit trail")
    for event in audit.history(client, name):
        trail.add_row(event.time[:19], event.action, str(event.before or ""), str(event.after), event.by, event.reason)
    console = Console(markup=False, emoji=False)
    console.print(table)
    for version in versions.list_versions(client, name):
        for note in version.notes:
            console.print(f"version {version.number}: {note}", style="yellow", soft_wrap=True)
    console.print(trail)


@registry.command()
@click.argument("version", type=int)
@MODEL
def lineage(version: int, model: str) -> None:
    """Print what a version was made from: run, decks, configuration, catalogue, quarantine, code."""
    client = tracking.connect()
    name = _resolve(model)
    tags = versions.tags(client, name, version)
    click.echo(f"{name} version {version}")
    for key, value in sorted(tags.items()):
        if key != DECISION:
            click.echo(f"{key:<16}{_address(client, value)}")  # unwrapped, to be copied


def _address(client: MlflowClient, value: str) -> str:
    """Return the store's address of a file of a run; any other value unchanged."""
    if not value.startswith(RUNS):
        return value
    run_id, _, path = value.removeprefix(RUNS).partition("/")
    return f"{client.get_run(run_id).info.artifact_uri}/{path}".rstrip("/")


@registry.command()
@click.argument("version", type=int)
@MODEL
@REASON
def promote(version: int, model: str, reason: str) -> None:
    """Make a version the champion by hand."""
    name = _resolve(model)
    versions.promote(tracking.connect(), name, version, getpass.getuser(), reason)
    click.echo(f"{name}: version {version} is the champion")


@registry.command()
@MODEL
@REASON
def rollback(model: str, reason: str) -> None:
    """Make the champion before this one the champion again."""
    name = _resolve(model)
    version = versions.rollback(tracking.connect(), name, getpass.getuser(), reason)
    click.echo(f"{name}: version {version} is the champion again")


@registry.command()
@click.option("--model", default="", help="registered model; empty for those that `make train` names by itself")
@click.option(
    "--keep",
    type=Number("KEEP_VERSIONS", 1, whole=True),
    default=10,
    help="number of newest versions to keep in any case",
)
@click.option("--forget", is_flag=True, help="also if the files of all versions are gone")
@click.option(
    "--days", type=Number("KEEP_DAYS", 0, 36_500), default=30, help="keep trainings without a version for so many days"
)
def prune(model: str, keep: int, forget: bool, days: float) -> None:
    """Close lost trainings; delete old versions and those without files, old trainings, and files of the deleted."""
    client = tracking.connect()
    click.echo(f"closed {runs.close_orphans(client)} trainings of lost executions")
    errors, deleted = [], 0
    for name in [model] if model else [versions.DEFAULT_MODEL, versions.SAMPLE_MODEL]:
        try:
            for number, why in pruning.prune(client, name, keep, forget).items():
                click.echo(f"deleted {name} version {number}: {why}")
        except LookupError as error:  # of one model: the others are pruned all the same
            errors.append(str(error))
        deleted += pruning.prune_runs(client, name, timedelta(days=days))
    click.echo(f"deleted {deleted} trainings without a version")
    click.echo(f"deleted the files of {pruning.sweep_files(client)} deleted models and runs")
    if errors:
        raise LookupError("; ".join(errors))


def _resolve(model: str) -> str:
    name, notice = versions.resolve_model(tracking.connect(), model, synthetic=False)
    if notice:
        click.echo(notice, err=True)
    return name


if __name__ == "__main__":
    prepare_streams()
    try:
        registry()
    except (LookupError, ValueError, MlflowException) as error:
        raise SystemExit(f"Error: {error}") from error
