"""Training and publication configuration (YAML or JSON). Invalid values raise `ValueError` on construction."""

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
    """Where a photo backbone's weights come from.

    AUTO: ImageNet's where they are cached or can be downloaded, else RANDOM, which is said loudly. Each of the others
    fails rather than fall back.
    """

    AUTO = "auto"
    IMAGENET = "imagenet"
    FILE = "file"
    RANDOM = "random"


class Refit(Enum):
    """What members are fitted on once more after they were judged. Those that are fitted out of fold always are."""

    NONE = "none"  # networks stay as they were judged, fitted on training rows alone: half the time
    EXCEPT_TEST = "except_test"  # every labelled row but the test rows: the figures are of the registered model
    EVERYTHING = "everything"  # the test rows too: the figures are of the model before that


class Precision(Enum):
    """Arithmetic of a network. AUTO: bf16 where the hardware has it, else fp32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


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
        # what preprocessing/photos.py decodes at most
        _require(1 <= self.max_photo_pixels <= 50_000_000, "max_photo_pixels", self.max_photo_pixels, "1 to 50000000")


@dataclass(frozen=True)
class SplitConfig(Strict):
    """Shares of titles in each split; training gets the rest."""

    validation: float = 0.08
    blending: float = 0.08
    test: float = 0.10

    def __post_init__(self) -> None:
        for name in ("validation", "blending", "test"):
            _require(0 < getattr(self, name) < 1, name, getattr(self, name), "a share, above 0 and under 1")
        held_out = round(self.validation + self.blending + self.test, 6)
        _require(held_out < 0.9, "validation + blending + test", held_out, "under 0.9, or too little is trained on")


@dataclass(frozen=True)
class BagConfig(Strict):
    """The member `bag`: a linear model on hashed n-grams. ngram_bits: 2 ** ngram_bits buckets."""

    ngram_bits: int = 18

    def __post_init__(self) -> None:
        _require(10 <= self.ngram_bits <= 24, "ngram_bits", self.ngram_bits, "from 10 to 24")


@dataclass(frozen=True)
class LSTMConfig(Strict):
    """The member `lstm`. Zero for a size means: chosen from the data's size by `models/members/lstm.py`."""

    vocabulary_size: int = 0
    max_tokens: int = 128
    epochs: int = 0
    batch_size: int = 64
    learning_rate: float = 0.0

    def __post_init__(self) -> None:
        _require(self.vocabulary_size >= 0, "vocabulary_size", self.vocabulary_size, "0 (chosen) or above")
        _require(4 <= self.max_tokens <= 4096, "max_tokens", self.max_tokens, "from 4 to 4096")
        _require(self.epochs >= 0, "epochs", self.epochs, "0 (chosen) or above")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(self.learning_rate >= 0, "learning_rate", self.learning_rate, "0 (chosen) or above")


@dataclass(frozen=True)
class TextConfig(Strict):
    """The pretrained text encoder of the members `encoder` and `bag_encoder`.

    encoder: use-multilingual, hf:NAME_OR_FOLDER, or none. revision: commit of a hub's model. prefix: what is put before
    each text, as "query: " for E5; empty for what the model's own configuration says. max_characters: of a text that
    are read; zero: the encoder's own choice. max_tokens: of an hf: encoder; zero: what the model was made for, at most
    512. fine_tune_epochs: above 0, an hf: encoder is trained with its head, at learning_rate, which falls by
    layer_decay from each layer to the one below it.
    """

    encoder: str = "use-multilingual"
    revision: str = ""
    prefix: str = ""
    max_characters: int = 0
    max_tokens: int = 0
    batch_size: int = 32
    precision: Precision = Precision.AUTO
    fine_tune_epochs: int = 0
    learning_rate: float = 2e-5
    warmup: float = 0.1
    layer_decay: float = 1.0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        hub = self.encoder.startswith("hf:") and len(self.encoder) > len("hf:")
        known = hub or self.encoder in ("use-multilingual", "none")
        _require(known, "encoder", self.encoder, "use-multilingual, hf:NAME_OR_FOLDER, or none")
        _require(hub or not self.revision, "revision", self.revision, "goes with an hf: encoder, and only with it")
        _require(self.max_characters >= 0, "max_characters", self.max_characters, "0 (chosen) or above")
        _require(0 <= self.max_tokens <= 8192, "max_tokens", self.max_tokens, "0 (chosen), or up to 8192")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(self.fine_tune_epochs >= 0, "fine_tune_epochs", self.fine_tune_epochs, "0 (none) or above")
        tunable = hub or self.fine_tune_epochs == 0
        _require(tunable, "fine_tune_epochs", self.fine_tune_epochs, "needs an hf: encoder: no other can be trained")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.warmup < 1, "warmup", self.warmup, "a share of the steps, from 0 to under 1")
        _require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "above 0, at most 1")

    def for_vectors(self) -> TextConfig:
        """Only what frozen vectors depend on; the rest as it is by default."""
        default = TextConfig()
        kept = ("encoder", "revision", "prefix", "max_characters", "max_tokens", "precision")
        return replace(default, **{name: getattr(self, name) for name in kept})


@dataclass(frozen=True)
class PhotoConfig(Strict):
    """The member `photo`: a pretrained backbone and a linear head, or VGG16 trained from random weights.

    backbone: vgg16, torchvision:NAME, or hf:NAME_OR_FOLDER. revision: commit of a hub's model. weights_file: for
    weights: file, a .pth or .safetensors of the backbone. image_size: pixels; zero means what the backbone was made for
    (VGG16: 224), or 32 for VGG16 from random weights. epochs, batch_size and learning_rate are of training VGG16;
    fine_tune_epochs: above 0, VGG16's block 5 is trained too.
    """

    backbone: str = "vgg16"
    weights: Weights = Weights.AUTO
    weights_file: str = ""
    revision: str = ""
    image_size: int = 0
    epochs: int = 0
    batch_size: int = 32
    learning_rate: float = 0.0
    fine_tune_epochs: int = 0

    def __post_init__(self) -> None:
        vgg16 = self.backbone == "vgg16"
        kind, _, name = self.backbone.partition(":")
        known = vgg16 or (kind in ("torchvision", "hf") and bool(name))
        _require(known, "backbone", self.backbone, "vgg16, torchvision:NAME, or hf:NAME_OR_FOLDER")
        _require(
            self.image_size == 0 or 32 <= self.image_size <= 1024,
            "image_size",
            self.image_size,
            "0 (chosen), or from 32 to 1024 pixels",
        )
        _require(self.epochs >= 0, "epochs", self.epochs, "0 (chosen) or above")
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2: batch norm needs two")
        _require(self.learning_rate >= 0, "learning_rate", self.learning_rate, "0 (chosen) or above")
        _require(self.fine_tune_epochs >= 0, "fine_tune_epochs", self.fine_tune_epochs, "0 (none) or above")
        named = bool(self.weights_file) == (self.weights is Weights.FILE)
        _require(named, "weights_file", self.weights_file, "goes with weights: file, and only with it")
        hub = self.backbone.startswith("hf:")
        _require(hub or not self.revision, "revision", self.revision, "goes with an hf: backbone, and only with it")
        fitting = not hub or self.weights is Weights.AUTO
        _require(fitting, "weights", self.weights.value, "an hf: backbone brings its own: leave weights out")
        trained = vgg16 or self.weights is not Weights.RANDOM
        _require(trained, "weights", self.weights.value, "only vgg16 is trained from random weights")
        tunable = (vgg16 and self.weights is not Weights.RANDOM) or self.fine_tune_epochs == 0
        rule = "needs vgg16 with pretrained weights: random ones are all trained"
        _require(tunable, "fine_tune_epochs", self.fine_tune_epochs, rule)


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


MEMBERS = ("bag", "lstm", "encoder", "bag_encoder", "transformer", "photo", "vgg16")


@dataclass(frozen=True)
class TrainingConfig(Strict):
    """Everything a training run can be told. A file may name only what it changes.

    members: what is trained and pooled, see models/members. refit: see Refit.
    """

    seed: int = 0
    members: list[str] = field(default_factory=lambda: list(MEMBERS))
    refit: Refit = Refit.EXCEPT_TEST
    ingest: IngestConfig = field(default_factory=IngestConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    bag: BagConfig = field(default_factory=BagConfig)
    lstm: LSTMConfig = field(default_factory=LSTMConfig)
    text: TextConfig = field(default_factory=TextConfig)
    photo: PhotoConfig = field(default_factory=PhotoConfig)
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2147483647")
        rule = f"one or more of {', '.join(MEMBERS)}, each once"
        distinct = 0 < len(self.members) == len(set(self.members))
        _require(distinct and set(self.members) <= set(MEMBERS), "members", self.members, rule)


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
