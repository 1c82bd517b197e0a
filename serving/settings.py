"""Settings of the app, read from the environment once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, DirectoryPath, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rakuten_tasks.registry.model_names import RULE, is_model_name
from rakuten_tasks.storage.addresses import broken_rule

PREFIX = "SERVE_"


class SettingError(ValueError):
    """An invalid setting. The message names the variable, its value and the rule."""


class Settings(BaseSettings):
    """One field, one environment variable: `queue` is SERVE_QUEUE. Descriptions: docs/reference/environment.md."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, populate_by_name=True, frozen=True, allow_inf_nan=False
    )

    # LitServe binds to these three only
    host: Literal["127.0.0.1", "0.0.0.0", "::"] = Field(
        default="127.0.0.1", description="address to listen on; 0.0.0.0 for other machines"
    )
    port: int = Field(default=8000, ge=1024, le=65535, description="port to listen on")
    model: str = Field(
        default="",
        validation_alias="MODEL",
        description="registered model; empty: rakuten-classifier, or the sample's while that has no champion",
    )
    api_key: str = Field(
        default="",
        validation_alias="LIT_SERVER_API_KEY",  # LitServe's own name for it
        description="required for all routes but /live, /ready and the page, as header X-API-Key; "
        "for /docs a browser asks for it as a password, with any user name",
    )
    var: Annotated[Path, AfterValidator(Path.resolve)] = Field(
        default=Path("var"),
        validation_alias="RAKUTEN_VAR",
        validate_default=True,
        description="folder for bundles, the prediction log and the server's state",
    )
    image_folder: DirectoryPath | None = Field(
        default=None, description="`image` may also be a path under this folder; empty: no local paths"
    )
    max_photo_bytes: int = Field(default=10_000_000, ge=1, le=100_000_000, description="bytes of a photo at most")
    # preprocessing/photos.py decodes no more than 50 million
    max_photo_pixels: int = Field(default=25_000_000, ge=1, le=50_000_000, description="pixels of a photo at most")
    max_text: int = Field(default=20_000, ge=1, le=1_000_000, description="characters of a title or a description")
    abstain_below: float = Field(default=0.0, ge=0, le=1, description="confidence below which `abstained` is true")
    max_batch_bytes: int = Field(
        default=32_000_000, ge=1, le=1_000_000_000, description="bytes of a request to /predict/batch at most"
    )
    queue: int = Field(default=128, ge=1, le=10_000, description="products in flight; more get 503")
    time_limit: float = Field(default=30.0, ge=0.1, le=600, description="seconds until a request gets 504")
    batch: int = Field(default=16, ge=1, le=64, description="products in a batch at most")
    batch_wait_ms: float = Field(
        default=8.0, ge=0, le=1000, description="milliseconds to fill a batch, only under load"
    )
    threads: int = Field(default=0, ge=0, le=256, description="torch threads; 0: all cores")
    # at most 8: a new champion serves within 10 s of its promotion
    poll_seconds: float = Field(default=2.0, ge=0.2, le=8, description="seconds between checks for a new champion")
    log: str = Field(default="", description="folder or fsspec address of the log's closed hours; empty: under `var`")
    log_days: int = Field(default=90, ge=1, le=36_500, description="days until rows of the prediction log are deleted")
    log_text: bool = Field(default=False, description="whether the prediction log holds the texts")

    @field_validator("log")
    @classmethod
    def _check_log(cls, address: str) -> str:
        if address and (rule := broken_rule(address)):
            raise ValueError(rule)
        return address

    @field_validator("model")
    @classmethod
    def _check_model(cls, name: str) -> str:
        if name and not is_model_name(name):
            raise ValueError(RULE)
        return name

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, key: str) -> str:
        if not (key.isascii() and key.strip() == key):  # a browser sends other letters in another encoding
            raise ValueError("must be of ASCII characters without spaces around them")
        return key

    @property
    def folder(self) -> Path:
        """Folder of the app's own state: bundles, minutes, the open hour."""
        return self.var / "serving"

    @property
    def log_address(self) -> str:
        """fsspec address of the closed hours of the prediction log."""
        return self.log or str(self.var / "prediction_log")

    @property
    def open_hours(self) -> Path:
        """Folder of the open hour of the prediction log: on this machine, as object stores cannot append."""
        return self.folder / "open_hours"

    @property
    def max_body(self) -> int:
        """Largest request in bytes: the photo in base64, texts with every character escaped, and the JSON around."""
        return self.max_photo_bytes * 4 // 3 + 2 * self.max_text * 12 + 10_000

    @property
    def products_at_once(self) -> int:
        """Products of a request to /predict/batch that are in flight at once: one batch is predicted, one waits."""
        return min(2 * self.batch, self.queue)

    @classmethod
    def from_environment(cls) -> Self:
        """Read and check all settings. Raises SettingError, also for a SERVE_ variable that does not exist."""
        variables = [variable(name) for name in cls.model_fields]
        if unknown := sorted(name for name in os.environ if name.startswith(PREFIX) and name not in variables):
            raise SettingError(f"{', '.join(unknown)}: no such setting; there are {', '.join(sorted(variables))}")
        try:
            return cls()
        except ValidationError as error:
            raise SettingError("\n".join(_message(detail) for detail in error.errors())) from None


def variable(name: str) -> str:
    """Environment variable of a setting."""
    return str(Settings.model_fields[name].validation_alias or PREFIX + name.upper())


def _message(detail: Any) -> str:
    name = str(detail["loc"][0])
    name = variable(name) if name in Settings.model_fields else name  # pydantic names a field with an alias by that
    value = "" if name == variable("api_key") else f"={detail['input']!r}"  # the key is not repeated
    rule = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return f"{name}{value}: {rule}"
