"""The one configuration of a training run: given as YAML or JSON, refused at birth when it makes no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, Self

import click
from mashumaro.exceptions import InvalidFieldValue
from mashumaro.mixins.json import DataClassJSONMixin


def _whole(value: object) -> bool:
    # some of Flyte's transports turn 3 into 3.0
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


# mashumaro alone takes 2.7 for 2 and true for 1
SCALARS: dict[str, Callable[[object], bool]] = {
    "int": _whole,
    "float": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
}


def _number(value: object) -> bool:
    # as 1e-3, which YAML 1.1 wants a point in
    try:
        float(str(value))
    except ValueError:
        return False
    return isinstance(value, str)


@dataclass(frozen=True)
class Strict(DataClassJSONMixin):
    """A dataclass that refuses unknown keys: flytekit alone drops them silently."""

    @classmethod
    def __pre_deserialize__(cls, d: Any) -> dict[Any, Any]:
        if d is None:  # an empty file: every key keeps its default
            return {}
        if not isinstance(d, dict):
            raise ValueError(f"{cls.__name__}: {d!r} is no mapping of keys to values")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(d) - known):
            raise ValueError(
                f"{cls.__name__}: unknown key {', '.join(map(repr, unknown))}: remove it, or use one of {sorted(known)}"
            )
        for f in fields(cls):
            if f.type in SCALARS and f.name in d and not SCALARS[str(f.type)](d[f.name]):
                hint = (
                    ": YAML takes it for text, write 0.001 or 1.0e-3"
                    if f.type == "float" and _number(d[f.name])
                    else ""
                )
                raise ValueError(f"{f.name}={d[f.name]!r}: must be of type {f.type}{hint}")
        return d

    @classmethod
    def from_json(cls, data: Any, *args: Any, **kwargs: Any) -> Self:
        """What `pyflyte run --config FILE` calls: one line that names the wrong key, instead of a traceback."""
        try:
            return super().from_json(data, *args, **kwargs)
        except (ValueError, InvalidFieldValue) as error:
            raise click.BadParameter(_innermost(error)) from error


def _innermost(error: BaseException) -> str:
    # mashumaro wraps the cause once per nesting level and leaves the cause out of its own message
    cause = error.__cause__ or error.__context__
    if not isinstance(error, InvalidFieldValue) or cause is None:
        return str(error)
    separator = "." if isinstance(cause, InvalidFieldValue) else ": "
    return f"{error.field_name}{separator}{_innermost(cause)}"


def _require(ok: bool, field_name: str, value: object, rule: str) -> None:
    if not ok:
        raise ValueError(f"{field_name}={value!r}: {rule}")


class Weights(Enum):
    """Where the VGG16's convolutions come from. Never silently replaced by another."""

    IMAGENET = "imagenet"
    FILE = "file"
    RANDOM = "random"


@dataclass(frozen=True)
class IngestConfig(Strict):
    """rows_per_shard: products in one Parquet shard. max_bad_share: of labelled rows, above it the run stops."""

    rows_per_shard: int = 1000
    max_bad_share: float = 0.05
    max_photo_bytes: int = 20_000_000
    max_photo_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        _require(self.rows_per_shard >= 1, "rows_per_shard", self.rows_per_shard, "at least 1")
        _require(0 <= self.max_bad_share <= 1, "max_bad_share", self.max_bad_share, "a share, from 0 to 1")
        _require(self.max_photo_bytes >= 1, "max_photo_bytes", self.max_photo_bytes, "at least 1")
        # what classifier/photos.py decodes at most
        _require(1 <= self.max_photo_pixels <= 50_000_000, "max_photo_pixels", self.max_photo_pixels, "1 to 50000000")


@dataclass(frozen=True)
class SplitConfig(Strict):
    """Shares of titles on each side; training gets what is left."""

    validation_a: float = 0.08
    validation_b: float = 0.08
    test: float = 0.10

    def __post_init__(self) -> None:
        for name in ("validation_a", "validation_b", "test"):
            _require(0 < getattr(self, name) < 1, name, getattr(self, name), "a share, above 0 and under 1")
        held_out = round(self.validation_a + self.validation_b + self.test, 6)
        _require(
            held_out < 0.9, "validation_a + validation_b + test", held_out, "under 0.9, or too little is trained on"
        )


@dataclass(frozen=True)
class TextConfig(Strict):
    """The text branch. Zero for a size means: chosen from the data's size by `classifier/lstm.py`."""

    vocabulary_size: int = 0
    max_tokens: int = 128
    ngram_bits: int = 18
    epochs: int = 0
    batch_size: int = 64
    learning_rate: float = 0.0

    def __post_init__(self) -> None:
        _require(self.vocabulary_size >= 0, "vocabulary_size", self.vocabulary_size, "0 (chosen) or above")
        _require(4 <= self.max_tokens <= 4096, "max_tokens", self.max_tokens, "from 4 to 4096")
        _require(10 <= self.ngram_bits <= 24, "ngram_bits", self.ngram_bits, "from 10 to 24")
        _require(self.epochs >= 0, "epochs", self.epochs, "0 (chosen) or above")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(self.learning_rate >= 0, "learning_rate", self.learning_rate, "0 (chosen) or above")

    def for_encoding(self) -> TextConfig:
        """Only what tokens and n-grams depend on; the rest as it is by default."""
        return TextConfig(self.vocabulary_size, self.max_tokens, self.ngram_bits)


@dataclass(frozen=True)
class PhotoConfig(Strict):
    """The photo branch. side: pixels; zero means 224 with pretrained weights, 32 with random ones.

    weights_file: a .pth or .safetensors of torchvision's vgg16 or vgg16_bn, for weights: file.
    """

    weights: Weights = Weights.RANDOM
    weights_file: str = ""
    side: int = 0
    epochs: int = 0
    batch_size: int = 32
    learning_rate: float = 0.0
    fine_tune_epochs: int = 0

    def __post_init__(self) -> None:
        _require(self.side == 0 or 32 <= self.side <= 1024, "side", self.side, "0 (chosen), or from 32 to 1024 pixels")
        _require(self.epochs >= 0, "epochs", self.epochs, "0 (chosen) or above")
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2: batch norm needs two")
        _require(self.learning_rate >= 0, "learning_rate", self.learning_rate, "0 (chosen) or above")
        _require(self.fine_tune_epochs >= 0, "fine_tune_epochs", self.fine_tune_epochs, "0 (none) or above")
        named = bool(self.weights_file) == (self.weights is Weights.FILE)
        _require(named, "weights_file", self.weights_file, "goes with weights: file, and only with it")
        tunable = self.weights is not Weights.RANDOM or self.fine_tune_epochs == 0
        _require(
            tunable, "fine_tune_epochs", self.fine_tune_epochs, "needs pretrained weights: random ones are all trained"
        )

    @property
    def pixels(self) -> int:
        """The side of a prepared photo, in pixels."""
        return self.side or (32 if self.weights is Weights.RANDOM else 224)

    def for_features(self) -> PhotoConfig:
        """Only what frozen features depend on; the rest as it is by default."""
        maps = min(self.fine_tune_epochs, 1)  # what block 5 reads is kept for as many epochs as will be
        default = PhotoConfig()
        training = {name: getattr(default, name) for name in ("epochs", "batch_size", "learning_rate")}
        return replace(self, side=self.pixels, fine_tune_epochs=maps, **training)


@dataclass(frozen=True)
class GateConfig(Strict):
    """When the alias `champion` moves to a new version."""

    max_f1_loss: float = 0.005
    min_probability: float = 0.90
    max_class_loss: float = 0.1
    min_class_rows: int = 30

    def __post_init__(self) -> None:
        _require(0 <= self.max_f1_loss <= 1, "max_f1_loss", self.max_f1_loss, "from 0 to 1")
        _require(0 < self.min_probability < 1, "min_probability", self.min_probability, "above 0 and under 1")
        _require(0 <= self.max_class_loss <= 1, "max_class_loss", self.max_class_loss, "from 0 to 1")
        _require(self.min_class_rows >= 1, "min_class_rows", self.min_class_rows, "at least 1")


@dataclass(frozen=True)
class TrainingConfig(Strict):
    """Everything a training run can be told. A file may name only what it changes."""

    seed: int = 0
    ingest: IngestConfig = field(default_factory=IngestConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    text: TextConfig = field(default_factory=TextConfig)
    photo: PhotoConfig = field(default_factory=PhotoConfig)
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2147483647")


class Mode(Enum):
    """What becomes of the products that a published catalogue holds when more are published there."""

    ADD = "add"  # they stay, and new ones join them
    REPLACE = "replace"  # only those of the source are in the next version


@dataclass(frozen=True)
class PublicationConfig(Strict):
    """What a catalogue must be to be published.

    min_kept_share: products at least, as a share of what the version before held. may_lose_classes: whether a class
    of the version before may have none.
    """

    ingest: IngestConfig = field(default_factory=IngestConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    min_kept_share: float = 0.5
    may_lose_classes: bool = False

    def __post_init__(self) -> None:
        _require(0 <= self.min_kept_share <= 1, "min_kept_share", self.min_kept_share, "a share, from 0 to 1")
