"""`@stage`: a Flyte task that is cached by content and retried after transient errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flytekit
from flytekit import Cache, task

from rakuten_tasks.runtime.code_version import code_version
from rakuten_tasks.runtime.pod_env import in_pod
from rakuten_tasks.runtime.retry import as_recoverable

F = TypeVar("F", bound=Callable[..., Any])


def stage(
    pod: Mapping[str, Any],
    cached: bool = False,
    deck: bool = False,
    dynamic: bool = False,
    ignored: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Return a decorator that makes a Flyte task of a function, to run on this pod (see pods.py).

    cached: reuse the outputs for equal inputs; the MLflow run and the inputs named in `ignored` do not count.
    deck: the task shows a page in Flyte's console. dynamic: the task plans other tasks.
    """

    def wrap(function: F) -> F:
        settings: dict[str, Any] = dict(pod)
        if cached:
            names = tuple(name for name in ("run", *ignored) if name in inspect.signature(function).parameters)
            settings["cache"] = Cache(version=code_version(), serialize=True, ignored_inputs=names)
        if deck:
            settings |= {"enable_deck": True, "deck_fields": ()}
        return (flytekit.dynamic if dynamic else task)(**settings)(as_recoverable(in_pod(function)))

    return wrap
