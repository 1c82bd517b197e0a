"""Hot reload of the champion: polls the alias, loads a new version beside the current one, swaps."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from rakuten_tasks.config import Refit
from rakuten_tasks.models.bundle import EVALUATION, Manifest
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.language import language
from rakuten_tasks.preprocessing.product import Product
from serving.worker.bundle_cache import BundleCache, Champion, verify_checksum
from serving.worker.model_source import ModelSource, StoreMissingError
from serving.worker_status import READY, WAITING, StatusWriter

log = logging.getLogger(__name__)

RETRY_AFTER = 60.0  # seconds until a champion that could not be loaded is tried again
WARM_UP = Product("mise en route", "premier produit", None)
REFIT_NOTES = {
    Refit.NONE: "networks fitted on training rows alone: the metrics are of this very model",
    Refit.EXCEPT_TEST: "fitted on every labelled product but the test rows: the metrics are of this very model",
    Refit.EVERYTHING: "fitted on the test rows too: the metrics are of the model before that",
}


class State(Enum):
    """Result of the last poll. A model that is loaded goes on serving in every state."""

    NO_MODEL = auto()  # no champion is registered, and no model is loaded
    SERVING = auto()  # the champion serves
    SERVING_CACHED = auto()  # the last good bundle serves; the registry names no champion, or was not asked yet
    LOAD_FAILED = auto()  # the champion cannot be loaded
    REGISTRY_DOWN = auto()  # MLflow cannot be reached


@dataclass(frozen=True)
class LoadedModel:
    """A champion in memory. A batch is predicted by one of them, so its responses never mix versions."""

    champion: Champion
    predictor: Predictor


@dataclass(frozen=True)
class LoadFailure:
    """A champion that could not be loaded. time: of the attempt, monotonic seconds."""

    champion: Champion
    reason: str
    time: float


class ModelReloader:
    """State machine over the polls of the registry. `current` is replaced in one assignment, for the worker's loop."""

    def __init__(self, registry: ModelSource, cache: BundleCache, status: StatusWriter) -> None:
        self.current: LoadedModel | None = None
        self.state = State.NO_MODEL
        self.first_poll_done = threading.Event()  # set once a model serves or the registry names none
        self._registry, self._cache, self._status = registry, cache, status
        self._failure: LoadFailure | None = None

    def run(self, poll_seconds: float, stop: threading.Event) -> None:
        """Poll until `stop` is set; no error ends the thread."""
        if self._status.replaces_another and self._load_cached("in place of a killed worker, before MLflow is asked"):
            self._transition(State.SERVING_CACHED)
            self.first_poll_done.set()
        while not stop.is_set():
            started = time.monotonic()
            try:
                self.poll()
                self.first_poll_done.set()
            except Exception:
                log.exception("looking for a champion failed: trying again")
            stop.wait(max(0.1, poll_seconds - (time.monotonic() - started)))

    def poll(self) -> None:
        """Ask the registry for the champion once, and enter the state that follows from its answer."""
        try:
            champion = self._registry.champion()
        except Exception as error:  # whatever a store or a server that is down raises
            public = error if isinstance(error, StoreMissingError) else type(error).__name__  # without addresses
            problem = f"MLflow cannot be reached: {public}"
            if self.state is not State.REGISTRY_DOWN:
                log.warning("%s: %s", problem, error)
            if self.current is None:
                self._load_cached(problem)
            self._transition(State.REGISTRY_DOWN, problem)
            return
        if self.state is State.REGISTRY_DOWN:
            log.info("MLflow can be reached again")
        if champion is None:
            self._transition(State.SERVING_CACHED if self.current else State.NO_MODEL)
            return
        self._failure = self._try_load(champion)
        if self._failure:
            self._transition(State.LOAD_FAILED, self._failure.reason)
        else:
            self._transition(State.SERVING)

    def _transition(self, state: State, problem: str = "") -> None:
        """Enter a state and publish the status that follows from it."""
        self.state = state
        if state is State.NO_MODEL:
            problem = self._registry.no_champion_message()
        elif state is State.REGISTRY_DOWN:
            problem += "; serving the last good bundle" if self.current else "; and no bundle on disk can be used"
        new = {"state": READY if self.current else WAITING, "problem": problem}
        if new != {name: getattr(self._status.status, name) for name in new}:
            self._status.publish(**new)

    def _try_load(self, champion: Champion) -> LoadFailure | None:
        """Serve the champion if it does not serve already. Return why it cannot; tried again after RETRY_AFTER."""
        if self.current and champion == self.current.champion:
            return None
        now = time.monotonic()
        if self._failure and self._failure.champion == champion and now - self._failure.time < RETRY_AFTER:
            return self._failure
        try:
            self._load_champion(champion)
        except Exception as error:  # whatever the download or an unusable bundle raises
            reason = f"{champion} cannot be loaded: {error}"
            log.error("%s", reason)
            self._status.publish(failed_reloads=self._status.status.failed_reloads + 1)
            if self.current is None:
                self._load_cached(reason)
            return LoadFailure(champion, reason, now)
        self._cache.mark_good(champion)
        return None

    def _load_champion(self, champion: Champion) -> None:
        """Activate the copy on disk; download the bundle if that is missing or damaged."""
        if self._cache.path(champion).is_dir():
            try:
                self._activate(champion)
                return
            except Exception as error:
                log.warning("the copy of %s on disk is damaged: fetching it anew (%s)", champion, error)
        self._cache.add(champion, lambda folder: self._registry.fetch(champion, folder))
        try:
            self._activate(champion)
        except Exception:
            self._cache.evict(champion)
            raise

    def _activate(self, champion: Champion) -> None:
        """Load a bundle of the cache, predict once, swap. Raises whatever a bundle that cannot be used raises."""
        bundle = self._cache.path(champion)
        verify_checksum(champion, bundle)
        predictor = Predictor.load(bundle)
        predictor.score([WARM_UP])
        language(WARM_UP.description)  # loads its model too before the first request
        description = describe(bundle, predictor)  # a bundle that cannot be described never serves
        previous, self.current = self.current, LoadedModel(champion, predictor)
        self._status.publish(
            state=READY,
            model=champion.model,
            version=champion.version,
            problem="",
            reloads=self._status.status.reloads + (previous is not None),
            bundle=description,
        )
        log.info("serving %s", champion)

    def _load_cached(self, reason: str) -> bool:
        """Serve the last good bundle on disk, or else the one before it. Return whether one serves."""
        for champion in self._cache.last_good():
            if not self._registry.is_allowed(champion.model):
                continue
            try:
                self._activate(champion)
            except Exception:
                log.exception("the bundle of %s on disk cannot be loaded", champion)
                continue
            log.warning("serving the last good bundle on disk, %s: %s", champion, reason)
            return True
        return False


def describe(bundle: Path, predictor: Predictor) -> dict[str, Any]:
    """Return the fields of GET /info that describe a bundle."""
    manifest = predictor.manifest
    evaluation = bundle / EVALUATION
    systems = json.loads(evaluation.read_text())["systems"] if evaluation.is_file() else {}
    return {
        "schema_version": manifest.schema_version,
        "labels": {str(code): manifest.names.get(str(code), "") for code in manifest.codes},
        "members": [_describe_member(manifest, name) for name in manifest.members],
        "thresholds": manifest.pool.thresholds,
        "pretrained": [weights.to_dict() for weights in manifest.lineage.pretrained],
        "photo_precision": manifest.config.photo.precision.value,
        "warning": "; ".join(f"{w.name}: {w.warning}" for w in manifest.lineage.pretrained if w.warning),
        "refit": manifest.config.refit.value,
        "refit_note": REFIT_NOTES[manifest.config.refit],
        "metrics": {
            name: {metric: system[metric]["value"] for metric in ("weighted_f1", "macro_f1", "accuracy")}
            for name, system in systems.items()
        },
        "synthetic": manifest.lineage.synthetic,
        "git_commit": manifest.lineage.git_commit,
        "run_id": manifest.lineage.run_id,
    }


def _describe_member(manifest: Manifest, name: str) -> dict[str, Any]:
    """weights: in the pool, by the modalities that a product has."""
    pool = manifest.pool
    weights = {modalities: by_member[name] for modalities, by_member in pool.weights.items() if name in by_member}
    return {"name": name, "modality": pool.modality[name], "reads": manifest.members[name], "weights": weights}
