"""Base classes of configuration and of what is stored as JSON; types of numbers; wording of errors."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Self

import click
from mashumaro.config import BaseConfig
from mashumaro.helper import pass_through
from mashumaro.mixins.json import DataClassJSONMixin
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

# mashumaro takes 2.7 for 2 and true for 1: with these pydantic gets the values unchanged
UNCHANGED: dict[Any, Any] = {kind: {"deserialize": pass_through} for kind in (int, float, str, bool)}


class Strict(DataClassJSONMixin):
    """Base of dataclasses stored as JSON. Unknown keys raise ValueError: flytekit alone drops them silently."""

    class Config(BaseConfig):
        forbid_extra_keys = True

    @classmethod
    def __pre_deserialize__(cls, d: Any) -> Any:
        if not isinstance(d, dict):  # mashumaro would raise AttributeError
            raise ValueError(f"{cls.__name__}: {d!r} is no mapping of keys to values")
        return d


@dataclass(frozen=True)
class Settings(Strict):
    """Base of the dataclasses that a user writes as YAML or JSON. pydantic checks each value on construction."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    class Config(BaseConfig):
        forbid_extra_keys = True
        serialization_strategy = UNCHANGED

    @model_validator(mode="before")
    @classmethod
    def _accept_an_empty_section(cls, values: Any) -> Any:
        return {} if values is None else values

    @classmethod
    def from_json(cls, data: str | bytes | bytearray, *_: Any, **__: Any) -> Self:
        """Parse the file of `pyflyte run --config FILE`. click.BadParameter lists every invalid key with its path."""
        try:
            return TypeAdapter(cls).validate_json(data)
        except ValidationError as error:
            raise click.BadParameter("\n".join(describe_error(item) for item in error.errors())) from error

    def _require(self, condition: bool, key: str, rule: str) -> None:
        """Raise ValueError that names the key, its value and the rule unless the condition holds."""
        if not condition:
            value = getattr(self, key)
            raise ValueError(f"{key}={value.value if isinstance(value, Enum) else value!r}: {rule}")


def describe_error(error: Any) -> str:
    """Return one error of pydantic as `path.to.key=value: rule`."""
    path, kind, value = ".".join(map(str, error["loc"])), error["type"], error["input"]
    if kind == "unexpected_keyword_argument":
        return f"{path}: unknown key: remove it, or use one of docs/reference/configuration.md"
    if kind == "value_error":  # raised by `Settings._require`, which names the key
        return f"{path}{'.' if path else ''}{error['ctx']['error']}"
    hint = ": YAML reads it as text, write 0.001 or 1.0e-3" if kind == "float_type" and isinstance(value, str) else ""
    return f"{path or 'configuration'}={value!r}: {error['msg']}{hint}"


def _restore_integer(value: object) -> object:
    # some of Flyte's transports turn 3 into 3.0
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_restore_integer)]
MAX_INTEGER = 10**9  # Flyte's transports change or refuse integers above 2**53
NonNegativeInt = Annotated[Integer, Field(ge=0, le=MAX_INTEGER)]
PositiveInt = Annotated[Integer, Field(ge=1, le=MAX_INTEGER)]
NonNegativeRate = Annotated[float, Field(ge=0, le=10)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
