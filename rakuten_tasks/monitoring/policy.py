"""The action after a drift check: nothing, wait for a second check, retrain, or alert."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum

from rakuten_tasks.monitoring.decision import Decision
from rakuten_tasks.monitoring.history import DriftCheck
from rakuten_tasks.monitoring.window import TimeWindow


class Action(Enum):
    """What to do after a check. The value is shown to users."""

    NOTHING = "nothing to do"
    WAIT = "first window with drift: waiting for a second one"
    RETRAIN = "second window with drift in a row: training again"
    CALL_FOR_LABELS = "ALERT: drift, but no new labelled data: the catalogue has not changed since the last training"
    COOL_DOWN = "ALERT: drift, but the last retraining was only a short time ago"


def decide_action(
    decision: Decision,
    span: TimeWindow,
    previous: Sequence[DriftCheck],
    version: int,
    catalogues: tuple[str, str],
    cooldown: timedelta,
) -> Action:
    """Decide what follows a check of a version.

    previous: earlier checks, oldest first. cooldown: time after a retraining in which no other one starts.
    catalogues: fingerprints of the catalogue now, and of the one the champion was trained on; "" if unknown.
    """
    if not decision.drift:
        return Action.NOTHING
    # windows that overlap would count the same rows twice
    earlier = [check for check in previous if datetime.fromisoformat(check.end) <= span.start]
    # another version has another reference
    if not earlier or earlier[-1].version != version or not earlier[-1].decision.drift:
        return Action.WAIT
    retrained = [
        check for check in previous if check.action == Action.RETRAIN.value and check.end < span.end.isoformat()
    ]
    if any(span.end - datetime.fromisoformat(check.end) < cooldown for check in retrained):
        return Action.COOL_DOWN
    current, trained_on = catalogues
    # a version that the gate refused was trained on its catalogue too
    used = {trained_on, *(check.catalogue for check in retrained)}
    return Action.CALL_FOR_LABELS if current in used or not trained_on else Action.RETRAIN
