"""Where a task finds itself: in a pod of an execution, or in a local run; and what is kept between its attempts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flytekit import FlyteContextManager, current_context
from flytekit.core.checkpointer import Checkpoint

from rakuten_tasks.artifacts import key_of
from rakuten_tasks.classifier.checkpoint import CheckpointStore, FolderStore
from rakuten_tasks.stage import code_version
from rakuten_tasks.var import checkpoints_folder


def execution() -> str:
    """The Flyte execution's name; empty in a local run."""
    state = FlyteContextManager.current_context().execution_state
    return "" if state is None or state.is_local_execution() else current_context().execution_id.name


class PodStore:
    """Flyte's place for the checkpoints of a pod's attempts: read from the attempt before, written for the next."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self) -> bytes | None:
        if not self._checkpoint.prev_exists():
            return None
        return self._checkpoint.read()

    def write(self, content: bytes) -> None:
        self._checkpoint.write(content)


@contextmanager
def checkpoints(name: str, *inputs: object) -> Iterator[CheckpointStore]:
    """What a training resumes from: in a pod Flyte's checkpoint, locally a folder named after code and inputs.

    inputs: what JSON can hold. The local folder goes when the block ends well.
    """
    if execution():
        yield PodStore(current_context().checkpoint)
        return
    store = FolderStore(checkpoints_folder() / f"{name}-{key_of([code_version(), *inputs])[:16]}")
    yield store
    store.remove()
