"""Environment of pods: variables copied from the environment of the registration, and checks of addresses.

They are no secrets: Flyte's console shows them.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rakuten_tasks.console.progress import on_terminal

F = TypeVar("F", bound=Callable[..., Any])

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")  # fsspec's protocols

# The demo cluster sets the first names, which only flytekit reads; fsspec and MLflow read the second. Real clusters set
# neither: a role of the pod's service account gives access to the store.
STORE = {
    "FLYTE_AWS_ENDPOINT": "AWS_ENDPOINT_URL",
    "FLYTE_AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
    "FLYTE_AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
}


def forwarded_env(names: Iterable[str]) -> dict[str, str]:
    """Return the variables that are set, without addresses of this machine: a pod would write to its own disk."""
    values = {name: os.environ[name] for name in names if os.environ.get(name)}
    return {n: value for n, value in values.items() if not (n.endswith(("_URI", "_URL")) and is_local_address(value))}


def is_local_address(address: str) -> bool:
    """Whether only this machine can reach the address: a folder, a sqlite file, localhost."""
    url = urlsplit(address)
    host = url.hostname or ""
    loopback = host in ("localhost", "0.0.0.0", "::1") or host.startswith("127.")
    return loopback or url.scheme in ("", "file") or url.scheme.startswith("sqlite")


def require_object_store(name: str, address: str) -> str:
    """Return the address, the value of the setting `name`. ValueError unless it is in an object store."""
    url = urlsplit(address)
    if url.scheme not in OBJECT_STORES or not url.netloc:
        raise ValueError(
            f"{name}={address!r}: pods share no machine, only an object store: set it to an "
            f"address such as s3://bucket/folder ({', '.join(OBJECT_STORES)})"
        )
    return address


def is_pod() -> bool:
    """Return whether this process runs in a pod of an execution."""
    return "FLYTE_INTERNAL_EXECUTION_ID" in os.environ


def require_remote(name: str, address: str) -> str:
    """Return the address that a task writes to. ValueError in a pod unless it is empty or in an object store."""
    return require_object_store(name, address) if address and is_pod() else address


def in_pod(function: F) -> F:
    """Decorate a task: log at INFO where no terminal shows bars; in a pod, set the store's variables for fsspec."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        logger = logging.getLogger("rakuten_tasks")
        level = logger.level
        if is_pod() or not on_terminal():
            logging.basicConfig()
            logger.setLevel(logging.INFO)  # without bars, the log alone shows progress
        if is_pod() and not any(name in os.environ for name in STORE.values()):
            os.environ.update({ours: os.environ[flytes] for flytes, ours in STORE.items() if flytes in os.environ})
        try:
            return function(*args, **kwargs)
        finally:
            logger.setLevel(level)

    return wrapper  # type: ignore[return-value]
