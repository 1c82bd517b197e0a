"""Checkpoints of an interrupted training: one blob of bytes, complete or ignored.

A blob is the SHA-256 of the rest (32 bytes), the SHA-256 of the training's fingerprint (32 bytes) and what torch.save
writes. It is unpickled only if both match, and then with weights_only.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from rakuten_tasks.storage.local_files import hash_file, hash_json, write_atomically
from rakuten_tasks.training.distributed import broadcast_from_rank_0, rank
from rakuten_tasks.training.termination import Terminated

log = logging.getLogger(__name__)

CODE = ("preprocessing", "training", "models")  # packages of which an edit makes a checkpoint stale
INTERVAL = 30.0  # seconds between two checkpoints
MAX_OVERHEAD = 0.05  # largest share of the time that goes into writing them
STALE_PART_SECONDS = 600  # age at which a half-written file is taken for a killed process's
DIGEST = hashlib.sha256().digest_size

State = Mapping[str, Any]  # nested mappings and lists of tensors, numbers and strings, as state_dict() returns


class CheckpointStore(Protocol):
    """Storage of one blob."""

    def read(self) -> bytes | None:
        """Return the blob that this attempt or the one before it wrote last; None if there is none."""
        ...

    def write(self, content: bytes) -> None:
        """Replace the blob."""
        ...


class LocalCheckpointStore:
    """A file that holds the blob. A reader gets a complete blob, however many processes write at once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "checkpoint"

    def read(self) -> bytes | None:
        with suppress(FileNotFoundError):  # none yet, or another run of the same training has just ended
            return self.path.read_bytes()
        return None

    def write(self, content: bytes) -> None:
        self._remove_parts(STALE_PART_SECONDS)
        write_atomically(self.path, content)

    def remove(self) -> None:
        """Delete the blob, once the training's outputs are safe."""
        self.path.unlink(missing_ok=True)
        self._remove_parts(0)
        with suppress(OSError):  # missing, or with files of others
            self.folder.rmdir()

    def _remove_parts(self, age: float) -> None:
        """Delete the half-written files of killed processes. age: in seconds."""
        for part in self.folder.glob("*.part"):
            with suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime >= age:
                    part.unlink()


def encode(state: State, fingerprint: str) -> bytes:
    """Return the state as a blob of the training with this fingerprint."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = hashlib.sha256(fingerprint.encode()).digest() + buffer.getvalue()
    return hashlib.sha256(body).digest() + body


def decode(blob: bytes, fingerprint: str) -> dict[str, Any]:
    """Return the encoded state, tensors on the CPU.

    Raises ValueError if the blob is incomplete or of another training.
    """
    body = memoryview(blob)[DIGEST:]
    if hashlib.sha256(body).digest() != blob[:DIGEST]:
        raise ValueError("it is damaged or cut short")
    if body[:DIGEST] != hashlib.sha256(fingerprint.encode()).digest():
        raise ValueError("it is of another training: data, configuration, code or device differ")
    return torch.load(io.BytesIO(body[DIGEST:]), map_location="cpu", weights_only=True)


class Checkpoints:
    """The checkpoints of one training, which consists of one or more phases, in a store.

    finished: results of finished phases by name; they are part of every later checkpoint.
    """

    def __init__(
        self,
        store: CheckpointStore | None = None,
        fingerprint: str = "",
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """store: rank 0's; without it nothing is read or written. Every rank must call this, as rank 0's blob is sent.

        interval: seconds between two checkpoints; 0: one after every step.
        """
        self._store = store if rank() == 0 else None
        self._fingerprint, self._interval, self._clock = fingerprint, interval, clock
        self.finished: dict[str, State] = {}
        self._unfinished: dict[str, State] = {}
        self._last, self._cost = clock(), 0.0
        blob = broadcast_from_rank_0(self._store.read() if self._store else None)
        if blob is None:
            return
        try:
            phases = decode(blob, fingerprint)
        except ValueError as error:
            log.warning("checkpoint ignored, training starts anew: %s", error)
            return
        self.finished, self._unfinished = phases["finished"], phases["unfinished"]
        log.warning("continuing from a checkpoint: %s", ", ".join((*self.finished, *self._unfinished)))
        self._write(lambda: blob)  # a pod's next attempt can read only what this one has written

    def pop_unfinished(self, phase: str) -> State | None:
        """Return the state of an interrupted phase, once, so that its memory can be freed; None if there is none."""
        return self._unfinished.pop(phase, None)

    def save(self, phase: str, state: State) -> None:
        """Write the state of an unfinished phase."""
        self._write(lambda: self._encode({phase: state}))

    def save_if_due(self, phase: str, state: Callable[[], State]) -> None:
        """Save once the interval has passed, or later if the store is slow. No result depends on it."""
        wait = max(self._interval, self._cost / MAX_OVERHEAD) if self._interval else 0
        if self._store and self._clock() - self._last >= wait:
            self.save(phase, state())

    @contextmanager
    def save_on_sigterm(self, phase: str, state: Callable[[], State]) -> Iterator[None]:
        """Save the state of the phase before SIGTERM ends the block."""
        try:
            yield
        except Terminated:
            self.save(phase, state())
            raise

    def finish(self, phase: str, result: State) -> None:
        """Write the result of a finished phase. Its tensors must not change later."""
        self.finished[phase] = result
        self._write(lambda: self._encode({}))

    def _encode(self, unfinished: Mapping[str, State]) -> bytes:
        return encode({"finished": self.finished, "unfinished": dict(unfinished)}, self._fingerprint)

    def _write(self, blob: Callable[[], bytes]) -> None:
        if not self._store:
            return
        started = self._clock()
        try:
            self._store.write(blob())
        except Exception as error:  # a full disk or an unreachable store need not end a training
            log.warning("no checkpoint written, training continues: %s", error)
        self._last = self._clock()
        self._cost = self._last - started


def fingerprint(settings: Sequence[Any], files: Sequence[Path]) -> str:
    """Return the SHA-256 of everything that decides the result of a training, in hex.

    settings: values that JSON can hold. files: its data. The package's code and torch's version are added.
    """
    package = Path(__file__).parents[1]
    code = sorted(path for name in CODE for path in (package / name).rglob("*.py"))
    return hash_json([settings, [hash_file(path) for path in (*code, *files)], torch.__version__])
