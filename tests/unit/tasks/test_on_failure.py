"""The reason that a failed workflow leaves."""

from __future__ import annotations

import pytest
from flytekit import FlyteContextManager, current_context
from flytekit.bin.entrypoint import get_traceback_str
from flytekit.exceptions.user import FlyteUserRuntimeException
from flytekit.types.error.error import FlyteError

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.tasks import on_failure
from rakuten_tasks.tasks.on_failure import explain, record_failed_training
from tests.support.task_names import task_function

SENTENCE = "ValueError: <2> classes in /data:\nname a catalogue with more, see `make train`"


def pod_message(error: Exception) -> str:
    """The message that a pod leaves for this error."""
    try:
        raise FlyteUserRuntimeException(error) from error
    except FlyteUserRuntimeException as raised:
        return get_traceback_str(raised)


def test_the_reason_begins_with_the_sentence_that_says_what_to_do():
    message = pod_message(ValueError(SENTENCE.removeprefix("ValueError: ")))
    assert message.startswith("Trace:")
    assert explain(message).startswith(f"{SENTENCE}\n\nTrace:")
    assert explain("the pod was lost") == "the pod was lost"


@pytest.mark.parametrize(("lines", "length"), [(2000, 8000), (10, 0)], ids=["long trace", "long sentence"])
def test_a_long_reason_is_cut_from_the_front_of_the_trace(lines, length):
    trace = "Trace:\n" + "\n".join(f"line {number}" for number in range(lines))
    sentence = SENTENCE if length else f"{SENTENCE} {'x' * 9000}"
    reason = explain(f"{trace}\n\nMessage:\n\n    {sentence}")
    assert reason.startswith(sentence)
    if length:
        assert length - 2 < len(reason) <= length
        assert reason.endswith("line 1999")
    else:
        assert reason == sentence


def test_the_failure_is_shown_in_a_deck(monkeypatch):
    reasons = []
    monkeypatch.setattr(on_failure.runs, "fail", lambda reason, execution: reasons.append(reason))
    error = FlyteError(failed_node_id="n3", message=pod_message(ValueError(SENTENCE.removeprefix("ValueError: "))))
    with FlyteContextManager.with_context(FlyteContextManager.current_context().new_builder()):
        task_function(record_failed_training)("sample", TrainingConfig(), "", "", error)
        (deck,) = current_context().decks
    assert reasons[0].startswith(SENTENCE)
    assert deck.html.startswith("<pre>ValueError: &lt;2&gt; classes in /data:\nname a catalogue")
