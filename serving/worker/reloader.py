"""Hot reload of the champion: polls the alias, loads a new version beside the current one, swaps."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rakuten_tasks.config import Refit
from rakuten_tasks.models.bundle import EVALUATION, Manifest
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.language import language
from rakuten_tasks.preprocessing.product import Product
from serving.litserve_adapter.status import READY, WAITING, StatusWriter
from serving.worker.bundle_cache import BundleCache, Champion, verify_checksum
from serving.worker.model_source import ModelSource, StoreMissingError

log = logging.getLogger(__name__)

RETRY_AFTER = 60.0  # seconds until a champion that could not be loaded is tried again
WARM_UP = Product("mise en route", "premier produit", None)
REFITS = {
    Refit.NONE: "networks fitted on training rows alone: the metrics are of this very model",
    Refit.EXCEPT_TEST: "fitted on every labelled product but the test rows: the metrics are of this very model",
    Refit.EVERYTHING: "fitted on the test rows too: the metrics are of the model before that",
}


@dataclass(frozen=True)
class LoadedModel:
    """A champion that answers. A batch holds on to one, so its answers cannot be mixed."""

    champion: Champion
    predictor: Predictor


class ModelReloader:
    """Holds the champion for the worker's loop. `current` is replaced as a whole."""

    def __init__(
        self,
        registry: ModelSource,
        cache: BundleCache,
        status: StatusWriter,
        load: Callable[[Path], Predictor] = Predictor.load,
    ) -> None:
        self.current: LoadedModel | None = None
        self.first_poll_done = threading.Event()  # set once it is known whether there is a champion
        self._registry, self._cache, self._status, self._load = registry, cache, status, load
        self._refused: dict[Champion, float] = {}  # -> when it was tried
        self._unreachable = ""

    def run(self, poll_seconds: float, stop: threading.Event) -> None:
        """Until `stop`: the thread's body. Nothing that happens here ends it."""
        if self._status.replaces_another:
            self._load_cached("in place of a killed worker, before MLflow is asked")
            if self.current:
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
        """Look once: take over a new champion, or the last good bundle if MLflow cannot be asked at the start."""
        try:
            champion = self._registry.champion()
        except Exception as error:  # whatever a store or a server that is down raises
            self._on_registry_error(error)
            return
        if self._unreachable:
            log.info("MLflow answers again")
            self._unreachable = ""
            self._publish_status()
        if champion is None:
            if self.current is None:
                self._status.publish(state=WAITING, problem=self._registry.no_champion_message())
            return
        if self.current is not None and champion == self.current.champion:
            self._clear_failures()
        elif time.monotonic() - self._refused.get(champion, -RETRY_AFTER) >= RETRY_AFTER:
            self._load_version(champion)

    def _load_version(self, champion: Champion) -> None:
        is_new = not self._cache.has(champion)
        try:
            bundle = self._cache.get_or_fetch(champion, lambda folder: self._registry.fetch(champion, folder))
        except Exception as error:
            self._mark_failed(champion, error)
            return
        try:
            self._activate(champion, bundle)
        except Exception as error:
            self._cache.evict(bundle)
            if is_new:
                self._mark_failed(champion, error)
            else:
                log.warning(
                    "the copy of %s version %s on disk is damaged: fetching it anew (%s)", *_name(champion), error
                )
                self._load_version(champion)
            return
        self._cache.mark_good(champion, bundle)
        self._refused.clear()

    def _activate(self, champion: Champion, bundle: Path) -> None:
        """Load, try out, swap. Raises whatever a bundle that cannot be used raises."""
        verify_checksum(champion, bundle)
        predictor = self._load(bundle)
        predictor.score([WARM_UP])
        language(WARM_UP.description)  # its model too is loaded before the first request, not beside it
        described = describe(bundle, predictor)  # a bundle that cannot say what it is never answers
        before, self.current = self.current, LoadedModel(champion, predictor)
        reloads = self._status.status.reloads + (before is not None)
        self._status.publish(
            state=READY,
            model=champion.model,
            version=champion.version,
            reloads=reloads,
            bundle=described,
        )
        self._publish_status()
        log.info("serving %s version %s", champion.model, champion.version)

    def _mark_failed(self, champion: Champion, error: Exception) -> None:
        self._refused[champion] = time.monotonic()
        reason = f"{champion.model} version {champion.version} cannot be loaded: {error}"
        log.error("%s", reason)
        self._status.publish(failed_reloads=self._status.status.failed_reloads + 1)
        self._publish_status(reason)
        if self.current is None:
            self._load_cached("as the champion cannot be loaded")
            self._publish_status(reason)

    def _clear_failures(self) -> None:
        """The champion that could not be loaded is no longer the champion."""
        if self._refused:
            self._refused.clear()
            self._publish_status()

    def _on_registry_error(self, error: Exception) -> None:
        first = not self._unreachable
        reason = error if isinstance(error, StoreMissingError) else type(error).__name__
        self._unreachable = f"MLflow cannot be reached: {reason}"
        if first:
            log.warning("%s: %s", self._unreachable, error)
        if self.current is None:
            self._load_cached("as MLflow cannot be reached")
        if first or self.current is None:
            self._publish_status()

    def _load_cached(self, why: str) -> None:
        """Serve what was served before, from this machine's disk; what was served before that if it is damaged."""
        for champion, bundle in self._cache.last_good():
            if not self._registry.is_allowed(champion.model):
                continue
            try:
                self._activate(champion, bundle)
            except Exception:
                log.exception("the bundle of %s version %s on disk cannot be loaded", *_name(champion))
                continue
            log.warning("serving the last good bundle on disk, %s version %s, %s", *_name(champion), why)
            return

    def _publish_status(self, problem: str = "") -> None:
        parts = [problem, self._unreachable]
        if self._unreachable:
            parts.append("serving the last good bundle" if self.current else "and no bundle on disk can be used")
        self._status.publish(problem="; ".join(filter(None, parts)), **({} if self.current else {"state": WAITING}))


def _name(champion: Champion) -> tuple[str, str]:
    return champion.model, champion.version


def describe(bundle: Path, predictor: Predictor) -> dict[str, Any]:
    """What /info says of a bundle."""
    manifest = predictor.manifest
    evaluation = bundle / EVALUATION
    systems = json.loads(evaluation.read_text())["systems"] if evaluation.is_file() else {}
    return {
        "schema_version": manifest.schema_version,
        "labels": {str(code): manifest.names.get(str(code), "") for code in manifest.codes},
        "members": [_member(manifest, name) for name in manifest.members],
        "pretrained": [weights.to_dict() for weights in manifest.lineage.pretrained],
        "warning": "; ".join(f"{w.name}: {w.warning}" for w in manifest.lineage.pretrained if w.warning),
        "refit": manifest.config.refit.value,
        "refit_note": REFITS[manifest.config.refit],
        "metrics": {
            name: {metric: system[metric]["value"] for metric in ("weighted_f1", "macro_f1", "accuracy")}
            for name, system in systems.items()
        },
        "synthetic": manifest.lineage.synthetic,
        "git_commit": manifest.lineage.git_commit,
        "run_id": manifest.lineage.run_id,
    }


def _member(manifest: Manifest, name: str) -> dict[str, Any]:
    """weights: in the pool, by the modalities that a product has."""
    pool = manifest.pool
    weights = {modalities: held[name] for modalities, held in pool.weights.items() if name in held}
    return {"name": name, "modality": pool.modality[name], "reads": manifest.members[name], "weights": weights}
