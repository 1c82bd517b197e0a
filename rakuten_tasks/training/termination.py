"""SIGTERM as an exception: Kubernetes sends it to a pod half a minute before it kills it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(SystemExit):
    """The process received SIGTERM."""


class _Sigterm:
    """Handler of SIGTERM. deferred: within a block whose state must not be left half changed."""

    deferred = False
    received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if not self.deferred:
            raise Terminated(128 + number)


_sigterm = _Sigterm()


def raise_on_sigterm() -> None:
    """Raise Terminated on SIGTERM from now on, unless it is handled otherwise; does nothing outside the main thread."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _sigterm)


@contextmanager
def defer_sigterm() -> Iterator[None]:
    """Raise Terminated only when the block has ended."""
    _sigterm.deferred = True
    try:
        yield
    finally:
        _sigterm.deferred = False
    if _sigterm.received:
        raise Terminated(128 + signal.SIGTERM)


def is_interruption(error: BaseException) -> bool:
    """Whether SIGTERM or Ctrl-C ended a block, and not a fault. flytekit turns Ctrl-C into an exit."""
    return _sigterm.received or isinstance(error, (KeyboardInterrupt, SystemExit))
