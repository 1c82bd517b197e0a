"""The blob, the store and the cadence."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rakuten_tasks.training import checkpoint
from rakuten_tasks.training.checkpoint import Checkpoints, LocalCheckpointStore, decode, encode, fingerprint
from tests.support.training_doubles import MemoryStore

RESULT = {"model": {"table": torch.arange(6.0).view(2, 3)}, "epochs": [{"number": 1, "loss": 0.1}]}
STATE = {
    "model": {"a": torch.ones(2, dtype=torch.half), "b": torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    "cuda_rng": None,
    "augment_rng": {"bit_generator": "PCG64", "state": {"state": 2**127, "inc": 2**90}},
}
PHASES = {"finished": {"bag": RESULT}, "unfinished": {"LSTM": STATE}}
BLOB = encode(PHASES, "ours")


def flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


def signed(body: bytes) -> bytes:
    return hashlib.sha256(body).digest() + body


def assert_same(ours: object, theirs: object) -> None:
    """Equal, with the same types, and tensors with the same dtype and layout in memory."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert_same(value, theirs[key])
    elif isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        assert (ours.dtype, ours.stride()) == (theirs.dtype, theirs.stride())
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def test_a_blob_holds_what_was_put_in() -> None:
    assert_same(decode(BLOB, "ours"), PHASES)


class Harmful:
    """Calls a function when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("harmful",)


def test_a_blob_with_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        decode(encode({"state": Harmful()}, "ours"), "ours")
    assert not Path("harmful").exists()


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"", "damaged or cut short"),
        (BLOB[:20], "damaged or cut short"),
        (BLOB[:-1], "damaged or cut short"),
        (BLOB + b"\0", "damaged or cut short"),
        *((flipped(BLOB, at), "damaged or cut short") for at in (0, 31, 32, 45, 200, len(BLOB) - 1)),
        (signed(b""), "of another training"),
        (signed(b"\x80\x04]\x94."), "of another training"),
        (signed(BLOB[64:]), "of another training"),
        (encode(PHASES, "theirs"), "of another training"),
    ],
)
def test_what_is_no_whole_checkpoint_of_this_training_is_ignored_with_one_warning(
    blob: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(blob)
    checkpoints = Checkpoints(store, "ours")
    assert checkpoints.pop_unfinished("LSTM") is None
    assert checkpoints.finished == {}
    (warning,) = caplog.messages
    assert warning.startswith("checkpoint ignored, training starts anew: it is")
    assert reason in warning
    assert store.written == 0


def test_what_was_restored_is_written_again_at_once() -> None:
    store = MemoryStore(BLOB)
    Checkpoints(store, "ours")
    assert (store.written, store.blob) == (1, BLOB)


def test_a_finished_phase_stays_in_the_checkpoints_of_the_next_and_an_unfinished_state_is_replaced() -> None:
    store = MemoryStore()
    checkpoints = Checkpoints(store, "ours")
    checkpoints.finish("bag", RESULT)
    checkpoints.save("LSTM", {"step": 1})
    checkpoints.save("LSTM", {"step": 2})
    assert_same(decode(store.blob or b"", "ours"), {"finished": {"bag": RESULT}, "unfinished": {"LSTM": {"step": 2}}})


def test_an_unfinished_state_is_returned_once() -> None:
    checkpoints = Checkpoints(MemoryStore(BLOB), "ours")
    assert_same(checkpoints.pop_unfinished("LSTM"), STATE)
    assert checkpoints.pop_unfinished("LSTM") is None
    assert_same(checkpoints.finished, {"bag": RESULT})


class Clock:
    """Tells the time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("interval", "cost", "saved"),
    [(30, 1, [30, 61, 92]), (30, 3, [30, 93]), (5, 0.0, [*range(5, 101, 5)]), (0, 3.0, [*range(1, 101, 4)])],
)
def test_a_checkpoint_is_due_after_the_interval_or_later_where_a_store_is_slow(
    interval: float, cost: float, saved: list[int]
) -> None:
    clock, times = Clock(), []

    class Slow(MemoryStore):
        def write(self, content: bytes) -> None:
            times.append(round(clock.now))
            clock.now += cost

    checkpoints = Checkpoints(Slow(), "ours", interval, clock)
    while clock.now < 100:
        clock.now += 1  # a step takes a second
        checkpoints.save_if_due("LSTM", lambda: STATE)
    assert times == saved


def test_a_store_that_fails_does_not_end_the_training(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryStore):
        def write(self, content: bytes) -> None:
            raise OSError("No space left on device")

    Checkpoints(Full(), "ours").save("LSTM", STATE)
    assert caplog.messages == ["no checkpoint written, training continues: No space left on device"]


def test_a_folder_keeps_the_last_blob_and_nothing_else(tmp_path: Path) -> None:
    store = LocalCheckpointStore(tmp_path / "checkpoints")
    assert store.read() is None
    store.write(b"one")
    store.write(b"two")
    assert store.read() == b"two"
    assert [path.name for path in store.folder.iterdir()] == ["checkpoint"]
    store.remove()
    assert store.read() is None
    assert not store.folder.exists()
    store.remove()


def test_a_write_that_breaks_off_leaves_the_blob_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalCheckpointStore(tmp_path)
    store.write(b"one")

    def full(handle: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(b"two")
    assert store.read() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_what_a_killed_process_left_half_written_is_swept_up_after_a_while(tmp_path: Path) -> None:
    abandoned, fresh = tmp_path / "a.part", tmp_path / "b.part"
    for path in (abandoned, fresh):
        path.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    LocalCheckpointStore(tmp_path).write(b"one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.part", "checkpoint"]


def test_many_writers_at_once_never_show_a_mixture(tmp_path: Path) -> None:
    store = LocalCheckpointStore(tmp_path)
    blobs = [bytes([number]) * 100_000 for number in range(4)]
    store.write(blobs[0])
    writers = [threading.Thread(target=lambda blob=blob: [store.write(blob) for _ in range(20)]) for blob in blobs]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(store.read())
    for writer in writers:
        writer.join()
    assert seen <= set(blobs)


def test_the_fingerprint_changes_with_all_that_decides_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, copy, other = (tmp_path / name for name in ("a", "b", "c"))
    shard.write_bytes(b"photos")
    copy.write_bytes(b"photos")
    other.write_bytes(b"photoz")
    settings = [0, {"epochs": 3}, [10, 20]]
    ours = fingerprint(settings, [shard])
    assert fingerprint(settings, [copy]) == ours  # by content, not by path
    others = [
        fingerprint([1, {"epochs": 3}, [10, 20]], [shard]),
        fingerprint([0, {"epochs": 4}, [10, 20]], [shard]),
        fingerprint([0, {"epochs": 3}, [10, 21]], [shard]),
        fingerprint(settings, [other]),
        fingerprint(settings, [shard, copy]),
    ]
    monkeypatch.setattr(checkpoint, "CODE", ("preprocessing", "training"))
    others.append(fingerprint(settings, [shard]))
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "0.1")
    others.append(fingerprint(settings, [shard]))
    assert len({ours, *others}) == 8
