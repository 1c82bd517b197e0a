"""Training and publication configuration (YAML or JSON). Invalid values raise `ValueError` on construction."""

from __future__ import annotations

from dataclasses import field, replace
from enum import Enum
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from rakuten_tasks.config_base import (
    MAX_INTEGER,
    Fraction,
    Integer,
    NonNegativeInt,
    NonNegativeRate,
    OpenFraction,
    PositiveInt,
    Settings,
)

SampleRows = Annotated[Integer, Field(ge=100, le=MAX_INTEGER)]  # of fewer, a split could end up empty


class Weights(Enum):
    """Source of a photo backbone's weights.

    AUTO: ImageNet's where they are cached or can be downloaded, else RANDOM, with a warning. The others fail instead of
    falling back.
    """

    AUTO = "auto"
    IMAGENET = "imagenet"
    FILE = "file"
    RANDOM = "random"


class Refit(Enum):
    """Rows that networks are fitted on again after their evaluation. Members fitted out of fold are always refitted."""

    NONE = "none"  # networks stay as evaluated, fitted on training rows alone: half the time
    EXCEPT_TEST = "except_test"  # every labelled row but the test rows: the metrics are the registered model's
    EVERYTHING = "everything"  # the test rows too: the metrics are those of the model before that


class Precision(Enum):
    """Arithmetic of a frozen network. AUTO: bf16 where the hardware supports it, else fp32. INT8: of VGG16."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


@dataclass(frozen=True)
class IngestConfig(Settings):
    """Reading of a catalogue.

    rows_per_shard: products in one Parquet shard. max_bad_share: share of labelled rows in quarantine above which the
    run stops.
    """

    rows_per_shard: PositiveInt = 1000
    max_bad_share: Fraction = 0.05
    max_photo_bytes: PositiveInt = 20_000_000
    max_photo_pixels: Annotated[PositiveInt, Field(le=50_000_000)] = 50_000_000  # limit of preprocessing/photos.py


@dataclass(frozen=True)
class SplitConfig(Settings):
    """Shares of titles in each split; training gets the rest."""

    validation: OpenFraction = 0.08
    blending: OpenFraction = 0.08
    test: OpenFraction = 0.10

    def __post_init__(self) -> None:
        total = round(self.validation + self.blending + self.test, 6)
        if total >= 0.9:
            raise ValueError(f"validation + blending + test={total}: under 0.9, or too few rows train")


@dataclass(frozen=True)
class SampleConfig(Settings):
    """Labelled rows of each split that a training uses at most, give or take a hundredth; more are sampled.

    training: what members are fitted on, in memory and hours that do not grow with the catalogue. validation, blending,
    test: at 50,000 rows the standard error of weighted F1 is about 0.0013, a quarter of gate.max_f1_loss.
    """

    training: SampleRows = 200_000
    validation: SampleRows = 50_000
    blending: SampleRows = 50_000
    test: SampleRows = 50_000


@dataclass(frozen=True)
class BagConfig(Settings):
    """The member `bag`: a linear model on hashed n-grams. ngram_bits: 2 ** ngram_bits buckets."""

    ngram_bits: Annotated[Integer, Field(ge=10, le=24)] = 18


@dataclass(frozen=True)
class LSTMConfig(Settings):
    """The member `lstm`. `models/members/lstm.py` replaces a zero by a value that fits the number of rows."""

    vocabulary_size: NonNegativeInt = 0
    max_tokens: Annotated[Integer, Field(ge=4, le=4096)] = 128
    epochs: NonNegativeInt = 0
    batch_size: PositiveInt = 64
    learning_rate: NonNegativeRate = 0.0


@dataclass(frozen=True)
class TextConfig(Settings):
    """The pretrained text encoder of the members `encoder`, `bag_encoder` and `transformer`.

    encoder: use-multilingual, hf:NAME_OR_FOLDER, or none. revision: commit of a model on Hugging Face's hub. prefix:
    prepended to each text, as "query: " for E5; empty for the one in the model's own configuration. max_characters:
    longer texts are cut; zero for the encoder's default. max_tokens: of an hf: encoder; zero for the model's own limit,
    at most 512. fine_tune_epochs: above 0, an hf: encoder is trained with its head, at learning_rate, multiplied by
    layer_decay from each layer to the one below it.
    """

    encoder: str = "use-multilingual"
    revision: str = ""
    prefix: str = ""
    max_characters: NonNegativeInt = 0
    max_tokens: Annotated[NonNegativeInt, Field(le=8192)] = 0
    batch_size: PositiveInt = 32
    precision: Precision = Precision.AUTO
    fine_tune_epochs: NonNegativeInt = 0
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 2e-5
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the steps
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        hub = self.encoder.startswith("hf:") and len(self.encoder) > len("hf:")
        known = hub or self.encoder in ("use-multilingual", "none")
        self._require(known, "encoder", "use-multilingual, hf:NAME_OR_FOLDER, or none")
        self._require(hub or not self.revision, "revision", "only an hf: encoder has one")
        floats = self.precision is not Precision.INT8
        self._require(floats, "precision", "auto, float32 or bfloat16: int8 is for photos")
        tunable = hub or self.fine_tune_epochs == 0
        self._require(tunable, "fine_tune_epochs", "needs an hf: encoder: no other can be trained")

    def for_vectors(self) -> TextConfig:
        """Keep the settings that frozen vectors depend on; reset the others to their defaults."""
        names = ("encoder", "revision", "prefix", "max_characters", "max_tokens", "precision")
        return replace(TextConfig(), **{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class PhotoConfig(Settings):
    """The member `photo`: a pretrained backbone and a linear head, or VGG16 trained from random weights.

    backbone: vgg16, torchvision:NAME, or hf:NAME_OR_FOLDER. revision: commit of a model on Hugging Face's hub.
    weights_file: with weights: file, a .pth or .safetensors of the backbone. image_size: pixels; zero for the
    backbone's own (VGG16: 224), or 32 for VGG16 from random weights. epochs, batch_size and learning_rate apply to
    training VGG16; fine_tune_epochs: above 0, VGG16's block 5 is trained too. precision: of a frozen backbone; int8, of
    vgg16 alone, is calibrated on training photos, and everywhere the same, but slow where the hardware has no int8.
    """

    backbone: str = "vgg16"
    weights: Weights = Weights.AUTO
    weights_file: str = ""
    revision: str = ""
    image_size: NonNegativeInt = 0
    epochs: NonNegativeInt = 0
    batch_size: Annotated[Integer, Field(ge=2)] = 32  # batch norm needs two
    learning_rate: NonNegativeRate = 0.0
    fine_tune_epochs: NonNegativeInt = 0
    precision: Precision = Precision.AUTO

    def __post_init__(self) -> None:
        vgg16, hub = self.backbone == "vgg16", self.backbone.startswith("hf:")
        kind, _, name = self.backbone.partition(":")
        known = vgg16 or (kind in ("torchvision", "hf") and bool(name))
        self._require(known, "backbone", "vgg16, torchvision:NAME, or hf:NAME_OR_FOLDER")
        sized = self.image_size == 0 or 32 <= self.image_size <= 1024
        self._require(sized, "image_size", "0 (the backbone's own), or from 32 to 1024 pixels")
        consistent = bool(self.weights_file) == (self.weights is Weights.FILE)
        self._require(consistent, "weights_file", "goes with weights: file, and only with it")
        self._require(hub or not self.revision, "revision", "only an hf: backbone has one")
        default = not hub or self.weights is Weights.AUTO
        self._require(default, "weights", "an hf: backbone brings its own: leave weights out")
        pretrained, tuned = self.weights is not Weights.RANDOM, self.fine_tune_epochs > 0
        self._require(vgg16 or pretrained, "weights", "only vgg16 is trained from random weights")
        rule = "needs vgg16 with pretrained weights: random ones are all trained"
        self._require(not tuned or (vgg16 and pretrained), "fine_tune_epochs", rule)
        frozen = self.precision is Precision.AUTO or (pretrained and not tuned)
        rule = "needs a frozen backbone: leave it out with fine_tune_epochs or weights: random"
        self._require(frozen, "precision", rule)
        self._require(vgg16 or self.precision is not Precision.INT8, "precision", "only vgg16 has int8")


@dataclass(frozen=True)
class GateConfig(Settings):
    """When the alias `champion` moves to a new version."""

    max_f1_loss: Fraction = 0.005
    min_probability: OpenFraction = 0.90
    max_class_loss: Fraction = 0.1
    min_class_rows: PositiveInt = 30


@dataclass(frozen=True)
class PoolConfig(Settings):
    """How members are combined. cascade: the photo is looked at only where the text has not settled the answer."""

    cascade: bool = True


MEMBERS = ("bag", "lstm", "encoder", "bag_encoder", "transformer", "photo", "vgg16")


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """All settings of a training run. A file may name only what it changes.

    members: models that are trained and pooled, see models/members. refit: see Refit.
    """

    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = 0
    members: list[str] = field(default_factory=lambda: list(MEMBERS))
    refit: Refit = Refit.EXCEPT_TEST
    ingest: IngestConfig = field(default_factory=IngestConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    bag: BagConfig = field(default_factory=BagConfig)
    lstm: LSTMConfig = field(default_factory=LSTMConfig)
    text: TextConfig = field(default_factory=TextConfig)
    photo: PhotoConfig = field(default_factory=PhotoConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        valid = 0 < len(self.members) == len(set(self.members)) and set(self.members) <= set(MEMBERS)
        self._require(valid, "members", f"one or more of {', '.join(MEMBERS)}, each once")


class Mode(Enum):
    """Whether products of the current version stay in the next version of a published catalogue."""

    ADD = "add"  # they stay, and new ones join them
    REPLACE = "replace"  # the next version has only the products of the source


@dataclass(frozen=True)
class PublicationConfig(Settings):
    """Requirements on a catalogue before it is published.

    min_kept_share: least number of products, divided by the current version's. may_lose_classes: whether a class of
    the current version may have no product.
    """

    ingest: IngestConfig = field(default_factory=IngestConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    min_kept_share: Fraction = 0.5
    may_lose_classes: bool = False
