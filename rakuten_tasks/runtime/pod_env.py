"""Environment of pods: the settings that are copied from the environment of the registration.

Nothing secret is among them: whoever sees a task in Flyte's console sees these.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

F = TypeVar("F", bound=Callable[..., Any])

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")  # fsspec's names of those that Flyte's pods write to

# A pod of Flyte's knows its store by the first names, which only flytekit reads; fsspec and MLflow read the second.
# Real clusters name neither: there a role of the pod's service account opens the store.
STORE = {
    "FLYTE_AWS_ENDPOINT": "AWS_ENDPOINT_URL",
    "FLYTE_AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
    "FLYTE_AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
}


def forwarded_env(names: Iterable[str]) -> dict[str, str]:
    """Those of these settings that are set here, but for addresses that mean something here alone.

    In a pod such an address would quietly be another, empty store.
    """
    found = {name: os.environ[name] for name in names if os.environ.get(name)}
    return {name: value for name, value in found.items() if not (_is_address(name) and is_local_address(value))}


def is_local_address(address: str) -> bool:
    """Whether it means something on this machine alone: a folder, a sqlite file, localhost."""
    url = urlsplit(address)
    host = url.hostname or ""
    here = host in ("localhost", "0.0.0.0", "::1") or host.startswith("127.")
    return here or url.scheme in ("", "file") or url.scheme.startswith("sqlite")


def require_object_store(name: str, address: str) -> str:
    """The address, which the setting `name` holds. ValueError unless it is in an object store, which pods share."""
    url = urlsplit(address)
    if url.scheme not in OBJECT_STORES or not url.netloc:
        raise ValueError(
            f"{name}={address!r}: pods share what is in an object store, and nothing that is on one machine: name "
            f"an address such as s3://bucket/folder ({', '.join(OBJECT_STORES)})"
        )
    return address


def require_remote(name: str, address: str) -> str:
    """The address, to which a task writes. ValueError if it does so in a pod, and the pod's own disk is meant."""
    return require_object_store(name, address) if address and "FLYTE_INTERNAL_EXECUTION_ID" in os.environ else address


def in_pod(function: F) -> F:
    """The function; in a pod it finds the store by the names that fsspec and MLflow read, and says what it does."""

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        if "FLYTE_INTERNAL_EXECUTION_ID" in os.environ:
            logging.basicConfig()
            logging.getLogger("rakuten_tasks").setLevel(logging.INFO)  # the log is all that is seen of a pod
            if not any(name in os.environ for name in STORE.values()):
                os.environ.update({ours: os.environ[flytes] for flytes, ours in STORE.items() if flytes in os.environ})
        return function(*args, **kwargs)

    return told  # type: ignore[return-value]


def _is_address(name: str) -> bool:
    return name.endswith(("_URI", "_URL"))
