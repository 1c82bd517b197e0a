from __future__ import annotations

import sqlite3

import pytest
import torch
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from flytekit.exceptions.system import FlyteDownloadDataException
from flytekit.exceptions.user import FlyteRecoverableException
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from requests.exceptions import ConnectionError as NoConnection
from sqlalchemy.exc import OperationalError

from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.runtime.retry import as_recoverable, is_transient


def client_error(status: int) -> ClientError:
    return ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


PASSING = [
    ConnectionResetError("the store hung up"),
    TimeoutError("the store is slow"),
    OSError(28, "No space left on device"),
    EndpointConnectionError(endpoint_url="http://store"),
    client_error(503),
    NoConnection("the tracking server is down"),
    MlflowException("database is locked", TEMPORARILY_UNAVAILABLE),
    OperationalError("insert", {}, sqlite3.OperationalError("database is locked")),
    FlyteDownloadDataException("s3://a", "/b", "hung up"),
    torch.OutOfMemoryError("another process has the memory"),
]
LASTING = [
    CatalogueError("X_train_update.csv: column designation is missing"),
    FileNotFoundError("no catalogue in /data"),
    PermissionError("s3://a: access denied"),
    LookupError("model a has no champion"),
    NoCredentialsError(),
    client_error(403),
    MlflowException("no such alias", INVALID_PARAMETER_VALUE),
    MemoryError("not even 2 photos fit: lower photo.image_size"),
    TypeError("a bug"),
]


def name(error: Exception) -> str:
    return f"{type(error).__name__}"


@pytest.mark.parametrize("error", PASSING, ids=name)
def test_a_fault_of_store_server_or_memory_is_tried_again(error):
    @as_recoverable
    def fails() -> None:
        raise error

    with pytest.raises(FlyteRecoverableException, match="Flyte retries the task") as raised:
        fails()
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", LASTING, ids=name)
def test_what_a_person_has_to_mend_is_not_tried_again_and_stays_as_it_was_said(error):
    @as_recoverable
    def fails() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        fails()
    assert raised.value is error


def test_the_first_known_error_of_a_chain_decides():
    hidden, plain = RuntimeError("could not read"), CatalogueError("the file is empty")
    hidden.__cause__ = ConnectionResetError()
    plain.__cause__ = ConnectionResetError()
    assert is_transient(hidden)
    assert not is_transient(plain)
