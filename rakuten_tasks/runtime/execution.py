"""The current execution, in a pod or local, and the checkpoint store that its attempts share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flytekit import FlyteContextManager, current_context
from flytekit.configuration import LocalConfig
from flytekit.core.checkpointer import Checkpoint
from flytekit.core.context_manager import ExecutionState
from flytekit.exceptions.system import FlyteDownloadDataException
from flytekit.exceptions.user import FlyteDataNotFoundException
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from rakuten_tasks.runtime.code_version import code_version
from rakuten_tasks.storage.local_files import hash_json
from rakuten_tasks.storage.paths import checkpoints_folder

if TYPE_CHECKING:
    from rakuten_tasks.training.checkpoint import CheckpointStore

log = logging.getLogger(__name__)


def execution() -> str:
    """Return the name of the Flyte execution; empty in a local run."""
    state = FlyteContextManager.current_context().execution_state
    in_pod = state is not None and state.mode is ExecutionState.Mode.TASK_EXECUTION
    return current_context().execution_id.name if in_pod else ""


class FlyteCheckpointStore:
    """Flyte's checkpoints of a pod: reads that of the previous attempt, writes that of the next."""

    def __init__(self, checkpoint: Checkpoint, wait: float = 2.0) -> None:
        """wait: seconds before the second of five attempts to read; doubled each time."""
        self._checkpoint = checkpoint
        self._retrying = Retrying(
            retry=retry_if_exception_type(FlyteDownloadDataException),
            stop=stop_after_attempt(5),
            wait=wait_exponential(wait),
            reraise=True,
        )

    def read(self) -> bytes | None:
        """Read the previous attempt's checkpoint; None if there is none or it cannot be downloaded.

        Raising instead would lose it: the next attempt can read only this one's.
        """
        if not self._checkpoint.prev_exists():
            return None
        try:
            return self._retrying(self._checkpoint.read)
        except FlyteDataNotFoundException:
            return None
        except FlyteDownloadDataException as error:
            log.warning("the previous checkpoint cannot be downloaded, training starts from the beginning: %s", error)
            return None

    def write(self, content: bytes) -> None:
        self._checkpoint.write(content)


@contextmanager
def checkpoints(name: str, *inputs: object) -> Iterator[CheckpointStore]:
    """Yield the store that a training resumes from: Flyte's in a pod, locally a folder named after code and inputs.

    inputs: JSON values. The local folder is deleted when the block ends without an error.
    """
    if execution():
        yield FlyteCheckpointStore(current_context().checkpoint)
        return
    from rakuten_tasks.training.checkpoint import LocalCheckpointStore  # imports torch

    # without cache, as when a version is reproduced, only a training without cache is resumed
    suffix = "" if LocalConfig.auto().cache_enabled else "-uncached"
    store = LocalCheckpointStore(checkpoints_folder() / f"{name}{suffix}-{hash_json([code_version(), *inputs])[:16]}")
    yield store
    store.remove()
