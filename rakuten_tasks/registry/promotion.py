"""Promotion of a version in steps that a retry completes: the gate's decision, then the aliases."""

from __future__ import annotations

import json

from mlflow import MlflowClient

from rakuten_tasks.registry.audit import GATE
from rakuten_tasks.registry.cleanup import ALIASES_BEFORE, BEST, CHALLENGER, CHAMPION, SETTLED, restore_aliases
from rakuten_tasks.registry.gate import VERDICT, GateDecision
from rakuten_tasks.registry.versions import (
    aliases,
    champion_version,
    decision_from_tags,
    move_champion,
    require_version,
)


def existing_decision(client: MlflowClient, model: str, version: int) -> GateDecision | None:
    """The verdict that the gate has given on this version, None if it has not.

    None too if the version is not settled and the champion has become another one than it was judged against.
    """
    require_version(client, model, version)
    tags = client.get_model_version(model, str(version)).tags
    verdict = decision_from_tags(tags)
    if verdict is None or SETTLED in tags or ALIASES_BEFORE not in tags:
        return verdict
    judged_against = json.loads(tags[ALIASES_BEFORE]).get(CHAMPION)
    return verdict if champion_version(client, model) in (judged_against, version) else None


def reset(client: MlflowClient, model: str, version: int) -> None:
    """Take back what an interrupted finalize has moved: the version is to be judged again."""
    restore_aliases(client, client.get_model_version(model, str(version)))


def alias_for(verdict: GateDecision) -> str:
    """The alias that a version gets for its verdict."""
    return CHAMPION if verdict.passed else CHALLENGER


def finalize(client: MlflowClient, model: str, version: int, verdict: GateDecision) -> str:
    """Put the verdict on the version and move the alias that it earned. -> "champion" or "challenger"

    The first verdict on a version stands, as long as `existing_decision` gives it. Each step may be repeated, so
    a retry completes what was cut short; what is given up goes back, by cleanup.delete_unfinalized.
    """
    stands = existing_decision(client, model, version)
    verdict = stands or verdict
    if not stands:
        client.set_model_version_tag(model, str(version), ALIASES_BEFORE, json.dumps(aliases(client, model)))
        client.set_model_version_tag(model, str(version), VERDICT, verdict.to_json())
    client.update_model_version(model, str(version), description=verdict.reason)
    if verdict.passed:
        _promote(client, model, version, verdict)
    else:
        client.set_registered_model_alias(model, CHALLENGER, str(version))
    client.set_model_version_tag(model, str(version), SETTLED, alias_for(verdict))
    return alias_for(verdict)


def _promote(client: MlflowClient, model: str, version: int, verdict: GateDecision) -> None:
    now = aliases(client, model)
    # Past the champion's own move, `now[CHAMPION]` is this version and keeps its own score: so best comes first
    scores = {now.get(CHAMPION): verdict.incumbent_f1, now.get(BEST): verdict.best_f1, version: verdict.new_f1}
    comparable = {number: score for number, score in scores.items() if number is not None and score is not None}
    client.set_registered_model_alias(model, BEST, str(max(comparable, key=lambda number: comparable[number])))
    move_champion(client, model, version, GATE, "the gate", verdict.reason)
