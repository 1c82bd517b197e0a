"""Audit trail: who made which version champion, when and why. One tag of the registered model per event."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient

from rakuten_tasks.config_base import Strict

GATE, PROMOTE, ROLLBACK = "gate", "promote", "rollback"
PREFIX = "audit."
MAX_REASON = 2000  # a registered model's tag holds 5000 characters


@dataclass(frozen=True)
class Event(Strict):
    """A move of the champion. time: UTC, ISO 8601, to the microsecond. before: None for the first champion."""

    time: str
    action: str  # GATE, PROMOTE or ROLLBACK
    before: int | None
    after: int
    by: str
    reason: str


def history(client: MlflowClient, model: str) -> list[Event]:
    """Return all events, oldest first."""
    tags = client.get_registered_model(model).tags
    return [Event.from_json(tags[key]) for key in sorted(tags) if key.startswith(PREFIX)]


def record_event(
    client: MlflowClient, model: str, action: str, before: int | None, after: int, by: str, reason: str
) -> None:
    """Write an event, before the alias moves, unless the last event is the same: then a retry repeats it."""
    now = datetime.now(UTC)
    event = Event(now.isoformat(timespec="microseconds"), action, before, after, by, reason[:MAX_REASON])
    events = history(client, model)
    if not events or dataclasses.replace(events[-1], time=event.time) != event:
        client.set_registered_model_tag(model, f"{PREFIX}{now:%Y%m%dT%H%M%S.%f}", event.to_json())


def champions_before(events: list[Event], champion: int) -> list[int]:
    """Return the champions that led to this one, oldest first, without those that were rolled back.

    Where the trail contradicts the alias (moved in MLflow's own pages, or an interrupted attempt) the alias wins.
    """
    line: list[int] = []
    for event in events:
        if event.before is not None:
            _go_back_to(line, event.before)
        if event.action == ROLLBACK:
            _go_back_to(line, event.after)
        else:
            line.append(event.after)
    _go_back_to(line, champion)
    return line[:-1]


def _go_back_to(line: list[int], version: int) -> None:
    """Drop what follows the version's last position; append the version if it is not in the line."""
    if version in line:
        while line[-1] != version:
            line.pop()
    else:
        line.append(version)
