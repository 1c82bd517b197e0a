"""Promotion of a registered version: a transaction that stores the gate's decision and moves the model's aliases.

Its journal are two tags of the version: BEGUN, written before any alias moves, and COMMITTED, written after the last.
A version with the first alone is completed by a retry (`resume`, `commit`) or taken back (`abort`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rakuten_tasks.registry import audit
from rakuten_tasks.registry.gate import DECISION, GateDecision
from rakuten_tasks.registry.tracking import registry_lock
from rakuten_tasks.registry.versions import (
    BEST,
    CHALLENGER,
    CHAMPION,
    aliases,
    champion_version,
    delete_orphan_models,
    move_champion,
    require_version,
)

BEGUN = "aliases_before_promotion"  # JSON: alias -> version
COMMITTED = "promoted_to"  # the alias that the version was given


class Rivals(NamedTuple):
    """The versions that a new one is compared with; None if there is none yet."""

    champion: int | None
    best: int | None


def alias_for(decision: GateDecision) -> str:
    """Return the alias that a version with this decision is given."""
    return CHAMPION if decision.passed else CHALLENGER


@dataclass(frozen=True)
class Promotion:
    """Promotion of one version. Each method may be repeated after an error at any of its requests."""

    client: MlflowClient
    model: str
    version: int

    def rivals(self) -> Rivals:
        """Return the current champion and best version."""
        current = aliases(self.client, self.model)
        return Rivals(current.get(CHAMPION), current.get(BEST))

    def resume(self) -> GateDecision | None:
        """Return the decision of an earlier attempt for `commit` to complete, None if there is none.

        Aborts an earlier attempt that was interrupted, if the champion has become another one than it was compared
        with. Raises LookupError if there is no such version.
        """
        require_version(self.client, self.model, self.version)
        tags = self._tags()
        if COMMITTED in tags or self._is_current(tags):
            return GateDecision.from_json(tags[DECISION])
        self.abort()
        return None

    def begin(self, decision: GateDecision, rivals: Rivals) -> bool:
        """Write the decision and the present aliases to the journal, unless an earlier attempt has.

        rivals: the versions that the decision compares with. Returns False if they are no longer champion and best:
        another training was registered meanwhile, so the gate must decide again.
        """
        if DECISION in self._tags():
            return True
        before = aliases(self.client, self.model)
        if rivals != (before.get(CHAMPION), before.get(BEST)):
            return False
        self._set_tag(BEGUN, json.dumps(before))
        self._set_tag(DECISION, str(decision.to_json()))
        return True

    def commit(self) -> str:
        """Move the aliases as decided, the champion's last. Returns the version's alias: CHAMPION or CHALLENGER."""
        tags = self._tags()
        if COMMITTED in tags:
            return tags[COMMITTED]
        decision = GateDecision.from_json(tags[DECISION])
        alias = alias_for(decision)
        self.client.update_model_version(self.model, str(self.version), description=decision.reason)
        if decision.passed:
            self._move_best(json.loads(tags[BEGUN]), decision)
            move_champion(self.client, self.model, self.version, audit.GATE, "the gate", decision.reason)
        else:
            self.client.set_registered_model_alias(self.model, CHALLENGER, str(self.version))
        self._set_tag(COMMITTED, alias)
        return alias

    def abort(self) -> None:
        """Move the aliases back and clear the journal; does nothing for a version that is committed or not begun."""
        tags = self._tags()
        if BEGUN not in tags or COMMITTED in tags:
            return
        before: dict[str, int] = json.loads(tags[BEGUN])
        # The values this version may have given; an alias with another value was moved by somebody else since
        own = self.version
        own_values = {CHAMPION: (own,), CHALLENGER: (own,), BEST: (own, before.get(CHAMPION))}
        for alias, version in aliases(self.client, self.model).items():
            if version in own_values.get(alias, ()) and version != before.get(alias):
                self._restore(alias, before.get(alias))
        for tag in (DECISION, BEGUN):  # the decision first: without it, a retry aborts again
            if tag in tags:
                self.client.delete_model_version_tag(self.model, str(self.version), tag)

    def _restore(self, alias: str, former: int | None) -> None:
        if former is None or former not in self._existing_versions():
            self.client.delete_registered_model_alias(self.model, alias)
            return
        if alias == CHAMPION:
            reason = "its training was given up while it was registered"
            audit.record_event(self.client, self.model, audit.ROLLBACK, self.version, former, "the registry", reason)
        self.client.set_registered_model_alias(self.model, alias, str(former))

    def _is_current(self, tags: Mapping[str, str]) -> bool:
        if DECISION not in tags:
            return False
        compared_with = json.loads(tags[BEGUN]).get(CHAMPION)
        return champion_version(self.client, self.model) in (compared_with, self.version)

    def _move_best(self, before: Mapping[str, int], decision: GateDecision) -> None:
        candidates = (
            (before.get(CHAMPION), decision.incumbent_f1),
            (before.get(BEST), decision.best_f1),
            (self.version, decision.new_f1),
        )
        existing = self._existing_versions()
        scores = {version: score for version, score in candidates if version in existing and score is not None}
        best = max(scores, key=lambda version: scores[version])
        self.client.set_registered_model_alias(self.model, BEST, str(best))

    def _existing_versions(self) -> set[int]:
        return {int(version.version) for version in self.client.search_model_versions(f"name='{self.model}'")}

    def _tags(self) -> dict[str, str]:
        return dict(self.client.get_model_version(self.model, str(self.version)).tags)

    def _set_tag(self, name: str, value: str) -> None:
        self.client.set_model_version_tag(self.model, str(self.version), name, value)


def is_committed(client: MlflowClient, run_id: str) -> bool:
    """Return whether the training with this run has a version whose promotion is committed."""
    return any(COMMITTED in version.tags for version in _versions_of(client, run_id))


def delete_uncommitted(client: MlflowClient, run_id: str) -> None:
    """Delete what a failed training has registered: versions that are not committed, and models without a version."""
    if any(COMMITTED not in version.tags for version in _versions_of(client, run_id)):
        with registry_lock():  # no other training compares with a version that is about to go
            for version in _versions_of(client, run_id):
                if COMMITTED not in version.tags:
                    Promotion(client, version.name, int(version.version)).abort()
                    _delete(client, version)
    delete_orphan_models(client, run_id)


def _versions_of(client: MlflowClient, run_id: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"run_id='{run_id}'"))


def _delete(client: MlflowClient, version: ModelVersion) -> None:
    try:
        client.delete_model_version(version.name, version.version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # another process has deleted it at the same time
            raise
