"""Workflow failure handlers: mark the MLflow run as failed with the reason, even if a pod was killed."""

from __future__ import annotations

from textwrap import dedent

from flytekit import Deck, current_context
from flytekit.types.error.error import FlyteError
from markupsafe import escape

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.registry import runs
from rakuten_tasks.registry.mlflow_adapter import MAX_TAG_VAL_LENGTH
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.execution import execution
from rakuten_tasks.runtime.stage import stage

UNKNOWN = "the workflow failed without a message: see the execution in Flyte's console"

MESSAGE = "\nMessage:\n"  # of flytekit's errors, after the traceback


def explain(message: str) -> str:
    """Put the text below MESSAGE, which says what to do, before the traceback, all cut to fit into a tag."""
    trace, _, text = message.rpartition(MESSAGE)
    text = dedent(text).strip()
    room = max(MAX_TAG_VAL_LENGTH - len(text) - 2, 0)
    return f"{text}\n\n{trace[len(trace) - min(room, len(trace)) :]}".strip()


def _record(err: FlyteError | None) -> None:
    reason = explain(err.message) if err else UNKNOWN
    runs.fail(reason, execution())
    current_context().decks.clear()  # local tasks share one list
    Deck("Failure", f"<pre>{escape(reason)}</pre>")


@stage(pods.SMALL, deck=True)
def record_failed_training(
    source: str, config: TrainingConfig, model: str, report: str, err: FlyteError | None = None
) -> None:
    """Mark this execution's run in MLflow as failed, with the reason, and show it."""
    _record(err)


@stage(pods.SMALL, deck=True)
def record_failed_reproduction(
    version: int, model: str, source: str, report: str, err: FlyteError | None = None
) -> None:
    """As record_failed_training."""
    _record(err)
