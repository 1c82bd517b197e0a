"""Which errors are transient, so that Flyte retries the task, and which are permanent."""

from __future__ import annotations

import functools
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from aiohttp import ClientError as HttpError
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError
from flytekit.exceptions.base import FlyteRecoverableException as FlytekitTransientError
from flytekit.exceptions.user import FlyteRecoverableException
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import Timeout

F = TypeVar("F", bound=Callable[..., Any])

# A wrong value, path, permission or setting: a retry changes nothing.
PERMANENT_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    LookupError,
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    NoCredentialsError,
    ParamValidationError,
)
TRANSIENT_ERRORS: tuple[type[Exception], ...] = (
    OSError,  # store and network; also a full disk, as the next pod has another
    RequestsConnectionError,
    Timeout,
    HttpError,
    BotoCoreError,
    sqlite3.OperationalError,
    FlytekitTransientError,  # flytekit's own down- and uploads
)
# Named, as importing these libraries takes seconds, and one that is not imported has raised nothing.
LIBRARY_ERRORS = {
    "sqlalchemy.exc": ("OperationalError",),
    # another process may have freed its memory by then; what never fits raises MemoryError
    "torch": ("OutOfMemoryError", "AcceleratorError"),
}
MLFLOW_ERRORS = {"mlflow.exceptions": ("MlflowException",)}


def as_recoverable(function: F) -> F:
    """Decorate a task: transient errors become FlyteRecoverableException, others stay unchanged."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except FlyteRecoverableException:
            raise
        except Exception as error:
            if not is_transient(error):
                raise
            raise FlyteRecoverableException(
                f"{type(error).__name__}: {error}; this may be transient: Flyte retries the task; locally, repeat "
                "the command, which continues with the finished tasks"
            ) from error

    return wrapper  # type: ignore[return-value]


def is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed, according to the first error of the chain that is in one of the lists."""
    for cause in _chain(error):
        if isinstance(cause, PERMANENT_ERRORS):
            return False
        if isinstance(cause, _imported(MLFLOW_ERRORS)):
            return cause.get_http_status_code() >= 500
        if isinstance(cause, ClientError):
            return cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in (429, 500, 502, 503, 504)
        if isinstance(cause, TRANSIENT_ERRORS + _imported(LIBRARY_ERRORS)):
            return True
    return False


def _imported(errors: Mapping[str, tuple[str, ...]]) -> tuple[type[Any], ...]:
    """Return those of the errors, named by module, whose module is imported."""
    return tuple(
        getattr(sys.modules[module], name) for module in errors if module in sys.modules for name in errors[module]
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
