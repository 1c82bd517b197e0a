"""The current execution: a pod's or a local run's, and the checkpoint store that its attempts share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from flytekit import FlyteContextManager, current_context
from flytekit.configuration import LocalConfig
from flytekit.core.checkpointer import Checkpoint
from flytekit.core.context_manager import ExecutionState
from flytekit.exceptions.system import FlyteDownloadDataException
from flytekit.exceptions.user import FlyteDataNotFoundException
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from rakuten_tasks.paths import checkpoints_folder
from rakuten_tasks.runtime.files import key_of
from rakuten_tasks.runtime.stage import code_version
from rakuten_tasks.training.checkpoint import CheckpointStore, LocalCheckpointStore

log = logging.getLogger(__name__)


def execution() -> str:
    """The Flyte execution's name; empty in a local run."""
    state = FlyteContextManager.current_context().execution_state
    in_pod = state is not None and state.mode is ExecutionState.Mode.TASK_EXECUTION
    return current_context().execution_id.name if in_pod else ""


class FlyteCheckpointStore:
    """Flyte's place for the checkpoints of a pod's attempts: read from the attempt before, written for the next."""

    def __init__(self, checkpoint: Checkpoint, wait: float = 2.0) -> None:
        """wait: seconds before the second of five tries to read; doubled each time."""
        self._checkpoint = checkpoint
        self._patient = Retrying(
            retry=retry_if_exception_type(FlyteDownloadDataException),
            stop=stop_after_attempt(5),
            wait=wait_exponential(wait),
            reraise=True,
        )

    def read(self) -> bytes | None:
        """None where there was no attempt before, or it wrote nothing, or its checkpoint cannot be had.

        Raising instead would lose it for good: the next attempt sees only what this one wrote.
        """
        if not self._checkpoint.prev_exists():
            return None
        try:
            return self._patient(self._checkpoint.read)
        except FlyteDataNotFoundException:
            return None
        except FlyteDownloadDataException as error:
            log.warning("the checkpoint of the attempt before cannot be had, training starts anew: %s", error)
            return None

    def write(self, content: bytes) -> None:
        self._checkpoint.write(content)


@contextmanager
def checkpoints(name: str, *inputs: object) -> Iterator[CheckpointStore]:
    """What a training resumes from: in a pod Flyte's checkpoint, locally a folder named after code and inputs.

    inputs: what JSON can hold. The local folder goes when the block ends well.
    """
    if execution():
        yield FlyteCheckpointStore(current_context().checkpoint)
        return
    # without cache, as to reproduce a version, no former training is gone on with but one without cache
    way = "" if LocalConfig.auto().cache_enabled else "-anew"
    store = LocalCheckpointStore(checkpoints_folder() / f"{name}{way}-{key_of([code_version(), *inputs])[:16]}")
    yield store
    store.remove()
