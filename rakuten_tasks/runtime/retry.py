"""Which errors are transient, so that Flyte retries the task, and which are permanent."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from aiohttp import ClientError as HttpError
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError
from flytekit.exceptions.base import FlyteRecoverableException as Tried
from flytekit.exceptions.user import FlyteRecoverableException
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import Timeout
from sqlalchemy.exc import OperationalError

F = TypeVar("F", bound=Callable[..., Any])

# A wrong value, path, right or setting: trying again changes nothing. Ours are sentences that say what to mend.
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
    OSError,  # store and network; a full disk too, as the next pod has another
    NoConnection,
    Timeout,
    HttpError,
    BotoCoreError,
    OperationalError,
    sqlite3.OperationalError,
    Tried,  # flytekit's own down- and uploads
    # the memory that another process holds may be free by then; what never fits is a MemoryError that says what to do
    torch.OutOfMemoryError,
    torch.AcceleratorError,
)


def as_recoverable(function: F) -> F:
    """The function, whose passing faults become FlyteRecoverableException; all others stay as they are."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except FlyteRecoverableException:
            raise
        except Exception as error:
            if not is_transient(error):
                raise
            raise FlyteRecoverableException(
                f"{type(error).__name__}: {error}; this may pass: Flyte tries the task again, locally run the same "
                "command again, what is done is kept"
            ) from error

    return guarded  # type: ignore[return-value]


def is_transient(error: BaseException) -> bool:
    """Whether the same task may do better a minute later, by the first error in the chain that is known."""
    for cause in _chain(error):
        if isinstance(cause, PERMANENT_ERRORS):
            return False
        if isinstance(cause, MlflowException):
            return cause.get_http_status_code() >= 500
        if isinstance(cause, ClientError):
            return cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in (429, 500, 502, 503, 504)
        if isinstance(cause, TRANSIENT_ERRORS):
            return True
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
