"""What follows a drift check: nothing, wait for a second one, retrain, or alert."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum

from rakuten_tasks.monitoring.decision import Decision
from rakuten_tasks.monitoring.history import DriftCheck
from rakuten_tasks.monitoring.window import TimeWindow


class Action(Enum):
    """The value is what people read."""

    NOTHING = "nothing to do"
    WAIT = "first drifting window: waiting for a second one"
    RETRAIN = "second drifting window in a row: training again"
    CALL_FOR_LABELS = "ALERT: drift is there and labelled data is not: nothing in the catalogue is known to be new"
    COOL_DOWN = "ALERT: drift is there, but it was trained again only lately"


def decide_action(
    decision: Decision,
    span: TimeWindow,
    before: Sequence[DriftCheck],
    version: int,
    catalogues: tuple[str, str],
    rest: timedelta,
) -> Action:
    """before: earlier looks, oldest first. rest: how long after a retraining none follows.

    catalogues: fingerprint of what it holds now, and of what the champion was trained on, "" where that is not known.
    """
    if not decision.drift:
        return Action.NOTHING
    # windows that overlap would count the same rows twice
    earlier = [look for look in before if datetime.fromisoformat(look.end) <= span.start]
    # another version has another reference
    if not earlier or earlier[-1].version != version or not earlier[-1].decision.drift:
        return Action.WAIT
    trained = [look for look in before if look.action == Action.RETRAIN.value and look.end < span.end.isoformat()]
    if any(span.end - datetime.fromisoformat(look.end) < rest for look in trained):
        return Action.COOL_DOWN
    now, champions = catalogues
    # a version that the gate refused has seen its catalogue too
    known = {champions, *(look.catalogue for look in trained)}
    return Action.CALL_FOR_LABELS if now in known or not champions else Action.RETRAIN
