"""Checkpoints of an interrupted training: one blob of bytes, complete or ignored.

A blob is the SHA-256 of the rest (32 bytes) and a safetensors file, whose metadata holds one JSON document.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Weights = Mapping[str, Tensor]
log = logging.getLogger(__name__)

FORMAT = 1
CODE = ("preprocessing", "training", "models")  # packages of which an edit makes a checkpoint stale
INTERVAL = 30.0  # seconds between two checkpoints
MAX_OVERHEAD = 0.05  # of the time, at most, goes into writing them
STALE_PART_SECONDS = 600  # seconds after which a half-written file is nobody's
DIGEST = hashlib.sha256().digest_size


class CheckpointStore(Protocol):
    """Keeps one blob."""

    def read(self) -> bytes | None:
        """What was written last, by this attempt or the one before it; None if nothing was."""
        ...

    def write(self, content: bytes) -> None:
        """Replace what is kept."""
        ...


class LocalCheckpointStore:
    """Keeps the blob as a file; whoever reads it finds one of the blobs written, whole, however many write at once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "checkpoint"

    def read(self) -> bytes | None:
        with suppress(FileNotFoundError):  # none yet, or another run of the same training has just ended
            return self.path.read_bytes()
        return None

    def write(self, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep(STALE_PART_SECONDS)
        with tempfile.NamedTemporaryFile(suffix=".part", dir=self.folder, delete=False) as file:
            part = Path(file.name)
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                part.replace(self.path)
            finally:
                part.unlink(missing_ok=True)

    def remove(self) -> None:
        """Once the training's outputs are safe."""
        self.path.unlink(missing_ok=True)
        self._sweep(0)
        with suppress(OSError):  # not there, or not ours alone
            self.folder.rmdir()

    def _sweep(self, age: float) -> None:
        # a killed process leaves its half-written file
        for part in self.folder.glob("*.part"):
            with suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime >= age:
                    part.unlink()


@dataclass(frozen=True)
class Record:
    """Where one phase of a training stands. facts: what JSON can hold."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    finished: bool = False


def encode(records: Mapping[str, Record], fingerprint: str) -> bytes:
    """Records by phase -> a blob."""
    tensors = {
        f"{phase}/{name}": tensor.detach().cpu().contiguous()
        for phase, record in records.items()
        for name, tensor in record.tensors.items()
    }
    phases = {phase: {"facts": dict(r.facts), "finished": r.finished} for phase, r in records.items()}
    document = {"format": FORMAT, "fingerprint": fingerprint, "phases": phases}
    body = save(tensors, {"checkpoint": json.dumps(document)})
    return hashlib.sha256(body).digest() + body


def decode(blob: bytes, fingerprint: str) -> dict[str, Record]:
    """What `encode` was given. Raises ValueError, saying why, for anything but a whole blob of this fingerprint."""
    body = blob[DIGEST:]
    if hashlib.sha256(body).digest() != blob[:DIGEST]:
        raise ValueError("it is damaged or cut short")
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])  # as safetensors lays a file out
        document = json.loads(header["__metadata__"]["checkpoint"])
        found = document["format"], document["fingerprint"]
        tensors = load(body)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError("it is of another format") from error
    if found[0] != FORMAT:
        raise ValueError(f"it is of format {found[0]}, not {FORMAT}")
    if found[1] != fingerprint:
        raise ValueError("it is of another training: data, configuration, code or device differ")
    return {
        phase: Record(
            {name.removeprefix(f"{phase}/"): t for name, t in tensors.items() if name.startswith(f"{phase}/")}, **saved
        )
        for phase, saved in document["phases"].items()
    }


class Checkpoints:
    """The checkpoints of one training, phase by phase. Without a store there are none."""

    def __init__(
        self,
        store: CheckpointStore | None = None,
        fingerprint: str = "",
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """interval: seconds between two checkpoints; 0: one after every step."""
        self._store, self._fingerprint, self._interval, self._clock = store, fingerprint, interval, clock
        self._records: dict[str, Record] = {}
        self._last, self._cost = clock(), 0.0
        blob = store.read() if store else None
        if blob is None:
            return
        try:
            self._records = decode(blob, fingerprint)
        except ValueError as error:
            log.warning("checkpoint ignored, training starts anew: %s", error)
            return
        log.warning("going on from a checkpoint: %s", ", ".join(self._records))
        self._write(lambda: blob)  # a pod's next attempt sees what this one wrote, and no more

    def take(self, phase: str) -> Record | None:
        """Where the phase stands; None: nowhere yet. An unfinished record is handed out once, to free its memory."""
        record = self._records.get(phase)
        if record and not record.finished:
            del self._records[phase]
        return record

    def save(self, phase: str, record: Record) -> None:
        """Write the record beside those of the phases before it."""
        if record.finished:
            self._records[phase] = record
        self._write(lambda: encode({**self._records, phase: record}, self._fingerprint))

    def save_if_due(self, phase: str, record: Callable[[], Record]) -> None:
        """By the clock, and the more seldom the longer a store takes. No result depends on it."""
        wait = max(self._interval, self._cost / MAX_OVERHEAD) if self._interval else 0
        if self._store and self._clock() - self._last >= wait:
            self.save(phase, record())

    def _write(self, blob: Callable[[], bytes]) -> None:
        if not self._store:
            return
        started = self._clock()
        try:
            self._store.write(blob())
        except Exception as error:  # a full disk or a store that is away need not end a training
            log.warning("no checkpoint written, training goes on: %s", error)
        self._last = self._clock()
        self._cost = self._last - started


def open_checkpoints(
    store: CheckpointStore | None, interval: float, facts: Sequence[Any], shards: Sequence[Path], born: Weights
) -> Checkpoints:
    """Of the training that `fingerprint` tells of. Without a store nothing is read, the shards neither."""
    return Checkpoints(store, fingerprint(facts, shards, born), interval) if store else Checkpoints()


def fingerprint(facts: Sequence[Any], shards: Sequence[Path], born: Weights) -> str:
    """Of all that decides what a training comes to: facts that JSON can hold, data, initial weights, code, torch."""
    package = Path(__file__).parents[1]
    code = sorted(path for name in CODE for path in (package / name).rglob("*.py"))
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in code]
    for path in shards:
        with path.open("rb") as file:
            files.append(hashlib.file_digest(file, "sha256").hexdigest())
    device = {tensor.device.type for tensor in born.values()}
    known = json.dumps([facts, files, sorted(device), torch.__version__], sort_keys=True, default=str)
    digest = hashlib.sha256(known.encode())
    for name, tensor in born.items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
