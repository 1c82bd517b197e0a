"""Registered versions and their aliases: champion (serves), challenger (rejected by the gate), best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from rakuten_tasks.models.bundle import bundle_hash
from rakuten_tasks.registry.audit import PROMOTE, ROLLBACK, champions_before, history, record_event
from rakuten_tasks.registry.gate import DECISION, GateDecision
from rakuten_tasks.registry.model_names import require_model_name
from rakuten_tasks.registry.tracking import experiment_id

DEFAULT_MODEL = "rakuten-classifier"
SAMPLE_MODEL = "rakuten-classifier-sample"
CHAMPION, CHALLENGER, BEST = "champion", "challenger", "best"  # aliases
BUNDLE_HASH = "bundle_hash"  # tag of a version
NOTE = "note."  # prefix of a version's tags that people should read


@dataclass(frozen=True)
class Version:
    """A registered version. weighted_f1 and reason are the gate's; empty where it has not decided.

    notes: warnings for people, such as random weights in place of pretrained ones.
    """

    number: int
    aliases: tuple[str, ...]
    weighted_f1: str
    reason: str
    notes: tuple[str, ...] = ()


def register(client: MlflowClient, model: str, bundle: Path, run_id: str, tags: Mapping[str, Any]) -> int:
    """Register the bundle's files as a version, without code or pickle; the same bundle of the same run only once.

    run_id: the training's run; tags: of the version, stored as text. Returns the version's number.
    """
    content = bundle_hash(bundle)
    require_model_name(model)
    for version in client.search_model_versions(f"name='{model}' and run_id='{run_id}'"):
        if version.tags.get(BUNDLE_HASH) == content:
            return int(version.version)
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    delete_orphan_models(client, run_id)
    logged = client.create_logged_model(experiment_id(client), name="bundle", source_run_id=run_id)
    client.log_model_artifacts(logged.model_id, str(bundle))
    client.finalize_logged_model(logged.model_id, "READY")
    texts = {**{key: str(value) for key, value in tags.items()}, BUNDLE_HASH: content}
    # The version is created last, with files and tags: after an interruption before it, a retry starts again
    source = f"models:/{logged.model_id}"
    return int(client.create_model_version(model, source, run_id, texts, model_id=logged.model_id).version)


def delete_orphan_models(client: MlflowClient, run_id: str) -> None:
    """Delete models that interrupted attempts uploaded and no version has; `make prune` deletes their files."""
    sources = {version.source for version in client.search_model_versions(f"run_id='{run_id}'")}
    for model in client.search_logged_models([experiment_id(client)], filter_string=f"source_run_id = '{run_id}'"):
        if f"models:/{model.model_id}" not in sources:
            client.delete_logged_model(model.model_id)


def fetch(
    client: MlflowClient, model: str, version_or_alias: str, out: Path | None = None, parts: Sequence[str] = ()
) -> Path:
    """Return the bundle's folder: downloaded into `out`, or else for reading only, as it may be the store's own.

    version_or_alias: "3", or "champion". parts: files and folders to download into `out`; empty for all. Raises
    LookupError if there is no such version, alias or model, and if the version's files are gone.
    """
    number = int(version_or_alias) if version_or_alias.isdecimal() else aliases(client, model).get(version_or_alias)
    if number is None:
        raise LookupError(f"model {model} has no alias {version_or_alias}: {_what_exists(client, model)}")
    require_version(client, model, number)
    if not has_files(model, number):
        raise LookupError(
            f"the files of {model} version {number} are gone from the store: put them back, or let `make prune` forget "
            "every version whose files are gone, and train again"
        )
    uri, target = f"models:/{model}/{number}", str(out) if out else None
    for part in parts:
        mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/{part}", dst_path=target)
    return out if out and parts else Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=target))


def has_files(model: str, number: int) -> bool:
    """Return whether the store has any file of this version."""
    return bool(mlflow.artifacts.list_artifacts(artifact_uri=f"models:/{model}/{number}"))


def aliases(client: MlflowClient, model: str) -> dict[str, int]:
    """Return alias -> version; empty if there is no such model."""
    try:
        registered = client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: int(version) for alias, version in registered.aliases.items()}


def champion_version(client: MlflowClient, model: str) -> int | None:
    """Return the version that predicts, None if there is no such model or it has no champion."""
    return aliases(client, model).get(CHAMPION)


def latest_version(client: MlflowClient, model: str) -> int | None:
    """Return the highest version number, whatever the gate decided; None if there is none."""
    return max((version.number for version in list_versions(client, model)), default=None)


def list_versions(client: MlflowClient, model: str) -> list[Version]:
    """Return all versions, oldest first; none if there is no such model. Raises as require_model_name does."""
    require_model_name(model)
    by_alias = aliases(client, model)
    result = []
    for version in client.search_model_versions(f"name='{model}'"):
        number, tags = int(version.version), version.tags
        decision = GateDecision.from_json(tags[DECISION]) if DECISION in tags else None
        names = tuple(sorted(alias for alias, target in by_alias.items() if target == number))
        score, reason = (f"{decision.new_f1:.4f}", decision.reason) if decision else ("", "")
        notes = tuple(tags[tag] for tag in sorted(tags) if tag.startswith(NOTE))
        result.append(Version(number, names, score, reason, notes))
    return sorted(result, key=lambda version: version.number)


def promote(client: MlflowClient, model: str, version: int, by: str, reason: str) -> None:
    """Make any version the champion by hand. Raises LookupError if there is no such version."""
    require_version(client, model, version)
    move_champion(client, model, version, PROMOTE, by, reason)


def rollback(client: MlflowClient, model: str, by: str, reason: str) -> int:
    """Make the champion before this one the champion again and return it; two calls go back two champions.

    The alias `best` stays, so the bar for new versions does not sink. Raises LookupError if there is no earlier one.
    """
    champion = champion_version(client, model)
    if champion is None:
        raise LookupError(f"model {model} has no champion to roll back: {_what_exists(client, model)}")
    before = previous_champions(client, model, champion)
    if not before:
        raise LookupError(
            f"version {champion} is the first champion of {model}, there is none to go back to: "
            f"promote one of its versions by hand; {_what_exists(client, model)}"
        )
    move_champion(client, model, before[-1], ROLLBACK, by, reason)
    return before[-1]


def previous_champions(client: MlflowClient, model: str, champion: int) -> list[int]:
    """Return the champions that led to this one and have not been deleted, oldest first."""
    existing = {version.number for version in list_versions(client, model)}
    return [number for number in champions_before(history(client, model), champion) if number in existing]


def move_champion(client: MlflowClient, model: str, version: int, action: str, by: str, reason: str) -> None:
    """Move the alias champion and write the audit event. action: audit.GATE, PROMOTE or ROLLBACK."""
    before = aliases(client, model)
    if before.get(CHAMPION) == version:
        return
    # The event first: if the alias then fails to move, the trail has an attempt too many, and the alias decides
    record_event(client, model, action, before.get(CHAMPION), version, by, reason)
    client.set_registered_model_alias(model, CHAMPION, str(version))
    if before.get(CHALLENGER) == version:
        client.delete_registered_model_alias(model, CHALLENGER)


def resolve_model(client: MlflowClient, name: str | None, synthetic: bool) -> tuple[str, str]:
    """Return the model to use and a notice for the user, which may be empty.

    name: empty for the default. synthetic: the catalogue is the built-in sample, which has a model of its own.
    Raises LookupError if the model has no champion.
    """
    if name:
        require_model_name(name)
        if champion_version(client, name) is None:
            raise LookupError(
                f"model {name} has no champion: train it, or name another one; {_what_exists(client, name)}"
            )
        return name, ""
    default = SAMPLE_MODEL if synthetic else DEFAULT_MODEL
    for model in dict.fromkeys((default, SAMPLE_MODEL)):
        if champion_version(client, model) is not None:
            notice = f"{default} has no champion yet: using {model}, which was trained on the synthetic sample"
            return model, "" if model == default else notice
    what_exists = _what_exists(client, default)
    raise LookupError(f"no champion of {default} yet: run `make train`, or name another model; {what_exists}")


def tags(client: MlflowClient, model: str, version: int) -> dict[str, str]:
    """Return a version's tags. Raises LookupError if there is no such version."""
    require_version(client, model, version)
    return dict(client.get_model_version(model, str(version)).tags)


def require_version(client: MlflowClient, model: str, version: int) -> None:
    """Raise LookupError, naming the versions that exist, if this one does not."""
    if version not in {existing.number for existing in list_versions(client, model)}:
        raise LookupError(f"model {model} has no version {version}: {_what_exists(client, model)}")


def _what_exists(client: MlflowClient, model: str) -> str:
    if versions := list_versions(client, model):
        names = [f"{v.number} ({', '.join(v.aliases)})" if v.aliases else str(v.number) for v in versions]
        return f"its versions are {', '.join(names)}"
    models = [registered.name for registered in client.search_registered_models()]
    return f"the registered models are {', '.join(models)}" if models else "no model is registered"


@dataclass(frozen=True)
class ChampionBundle:
    """The champion of a model with the folder of its bundle, for reading only. notice: for the user; may be empty."""

    model: str
    version: int
    folder: Path
    notice: str = ""


def fetch_champion(
    client: MlflowClient, model: str | None, synthetic: bool, out: Path | None = None, parts: Sequence[str] = ()
) -> ChampionBundle:
    """Fetch the champion of the model that `resolve_model` selects, as `fetch`. Raises LookupError as both do."""
    name, notice = resolve_model(client, model, synthetic)
    version = aliases(client, name)[CHAMPION]
    return ChampionBundle(name, version, fetch(client, name, str(version), out, parts), notice)
