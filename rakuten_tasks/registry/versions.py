"""Registered versions and their aliases: champion (serves), challenger (rejected by the gate), best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from rakuten_tasks.models.bundle import bundle_hash
from rakuten_tasks.registry.audit import PROMOTE, ROLLBACK, champions_before, history, record
from rakuten_tasks.registry.cleanup import BEST, CHALLENGER, CHAMPION, delete_orphan_models
from rakuten_tasks.registry.gate import VERDICT, GateDecision
from rakuten_tasks.registry.tracking import experiment_id

DEFAULT_MODEL = "rakuten-classifier"
SAMPLE_MODEL = "rakuten-classifier-sample"
BUNDLE_HASH = "bundle_hash"


NOTE = "note."  # tags of a version that people should read begin with it


@dataclass(frozen=True)
class Version:
    """One registered version. weighted_f1 and reason are the gate's; empty where it has not judged.

    notes: what one should know of it: weights that are not those asked for, figures that are of a model before it.
    """

    number: int
    aliases: tuple[str, ...]
    weighted_f1: str
    reason: str
    notes: tuple[str, ...] = ()


def register(client: MlflowClient, model: str, bundle: Path, run_id: str, tags: Mapping[str, Any]) -> int:
    """Register the bundle's files as a version, without code or pickle. The same bundle of the same run: once.

    run_id: the training's run; tags: go onto the version, as text. -> version number
    """
    content = bundle_hash(bundle)
    for found in client.search_model_versions(f"name='{model}' and run_id='{run_id}'"):
        if found.tags.get(BUNDLE_HASH) == content:
            return int(found.version)
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
    # The version appears last, whole and with its tags: a retry after a crash before it starts anew
    source = f"models:/{logged.model_id}"
    return int(client.create_model_version(model, source, run_id, texts, model_id=logged.model_id).version)


def fetch(client: MlflowClient, model: str, version_or_alias: str, out: Path | None = None) -> Path:
    """The bundle's folder: copied into `out`, or else only for reading, as it may be the store's own.

    version_or_alias: "3", or "champion". Raises LookupError if there is no such version, alias or model.
    """
    number = int(version_or_alias) if version_or_alias.isdecimal() else aliases(client, model).get(version_or_alias)
    if number is None:
        raise LookupError(f"model {model} has no alias {version_or_alias}: {_what_exists(client, model)}")
    require_version(client, model, number)
    try:
        address = f"models:/{model}/{number}"
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(out) if out else None))
    except MlflowException as error:
        if "No such artifact" not in str(error):
            raise
        raise LookupError(
            f"the files of {model} version {number} are gone from the store: put them back, or let `make prune` forget "
            "every version whose files are gone, and train again"
        ) from error


def aliases(client: MlflowClient, model: str) -> dict[str, int]:
    """alias -> version; empty if there is no such model."""
    try:
        found = client.get_registered_model(model).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: int(version) for alias, version in found.items()}


def champion_version(client: MlflowClient, model: str) -> int | None:
    """The version that predicts, None if there is no such model or it has no champion."""
    return aliases(client, model).get(CHAMPION)


def best_version(client: MlflowClient, model: str) -> int | None:
    """The champion, past or present, with the highest weighted F1, as measured when a champion last moved."""
    return aliases(client, model).get(BEST)


def latest_version(client: MlflowClient, model: str) -> int | None:
    """The highest version number, whatever the gate said of it; None if there is none."""
    return max((version.number for version in list_versions(client, model)), default=None)


def list_versions(client: MlflowClient, model: str) -> list[Version]:
    """All versions, oldest first; none if there is no such model."""
    by_alias = aliases(client, model)
    result = []
    for found in client.search_model_versions(f"name='{model}'"):
        number = int(found.version)
        verdict = decision_from_tags(found.tags)
        names = tuple(sorted(alias for alias, version in by_alias.items() if version == number))
        score = f"{verdict.new_f1:.4f}" if verdict else ""
        notes = tuple(found.tags[tag] for tag in sorted(found.tags) if tag.startswith(NOTE))
        result.append(Version(number, names, score, verdict.reason if verdict else "", notes))
    return sorted(result, key=lambda version: version.number)


def decision_from_tags(tags: Mapping[str, str]) -> GateDecision | None:
    return GateDecision.from_json(tags[VERDICT]) if VERDICT in tags else None


def promote(client: MlflowClient, model: str, version: int, by: str, reason: str) -> None:
    """Make any version the champion by hand. Raises LookupError if there is no such version."""
    require_version(client, model, version)
    move_champion(client, model, version, PROMOTE, by, reason)


def rollback(client: MlflowClient, model: str, by: str, reason: str) -> int:
    """Back to the champion before this one; twice goes back twice. -> the version that is the champion again

    The alias `best` stays: the bar for new versions does not sink. Raises LookupError if there is none to go back to.
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
    """The champions that led to this one and have not been deleted, oldest first."""
    there = {version.number for version in list_versions(client, model)}
    return [number for number in champions_before(history(client, model), champion) if number in there]


def move_champion(client: MlflowClient, model: str, version: int, action: str, by: str, reason: str) -> None:
    before = aliases(client, model)
    if before.get(CHAMPION) == version:
        return
    # The event first: cut short here, the trail tells of an attempt, and the alias still decides
    record(client, model, action, before.get(CHAMPION), version, by, reason)
    client.set_registered_model_alias(model, CHAMPION, str(version))
    if before.get(CHALLENGER) == version:
        client.delete_registered_model_alias(model, CHALLENGER)


def resolve_model(client: MlflowClient, asked: str | None, synthetic: bool) -> tuple[str, str]:
    """The model to use and a notice, empty or a sentence for the user.

    asked: empty for no wish. synthetic: the catalogue is the built-in sample, which has a model of its own.
    Raises LookupError if the model has no champion.
    """
    if asked:
        if champion_version(client, asked) is None:
            raise LookupError(
                f"model {asked} has no champion: train it, or name another one; {_what_exists(client, asked)}"
            )
        return asked, ""
    own = SAMPLE_MODEL if synthetic else DEFAULT_MODEL
    for model in dict.fromkeys((own, SAMPLE_MODEL)):
        if champion_version(client, model) is not None:
            notice = f"{own} has no champion yet: using {model}, which was trained on the synthetic sample"
            return model, "" if model == own else notice
    raise LookupError(f"no champion of {own} yet: run `make train`, or name another model; {_what_exists(client, own)}")


def tags(client: MlflowClient, model: str, version: int) -> dict[str, str]:
    """What a version says of itself. Raises LookupError if there is no such version."""
    require_version(client, model, version)
    return dict(client.get_model_version(model, str(version)).tags)


def require_version(client: MlflowClient, model: str, version: int) -> None:
    """Raises LookupError that names what exists, if this version does not."""
    if version not in {found.number for found in list_versions(client, model)}:
        raise LookupError(f"model {model} has no version {version}: {_what_exists(client, model)}")


def _what_exists(client: MlflowClient, model: str) -> str:
    if found := list_versions(client, model):
        names = [f"{v.number} ({', '.join(v.aliases)})" if v.aliases else str(v.number) for v in found]
        return f"its versions are {', '.join(names)}"
    models = [found.name for found in client.search_registered_models()]
    return f"the registered models are {', '.join(models)}" if models else "no model is registered"


@dataclass(frozen=True)
class ChampionBundle:
    """The champion of a model with the folder of its bundle, for reading only. notice: for the user; may be empty."""

    model: str
    version: int
    folder: Path
    notice: str = ""


def fetch_champion(client: MlflowClient, model: str | None, synthetic: bool) -> ChampionBundle:
    """Fetch the champion of the model that `resolve_model` selects. Raises LookupError as it does."""
    name, notice = resolve_model(client, model, synthetic)
    version = aliases(client, name)[CHAMPION]
    return ChampionBundle(name, version, fetch(client, name, str(version)), notice)
