"""The members that a configuration trains, the extractors that each reads, and the settings of those."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rakuten_tasks.config import Precision, TrainingConfig, Weights
from rakuten_tasks.data.splits import BLENDING, TEST, TRAIN, VALIDATION
from rakuten_tasks.models.backbones import load_backbone
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.encoders import load_encoder
from rakuten_tasks.models.encoders.transformer_encoder import TransformerEncoder
from rakuten_tasks.models.extractors import (
    EncoderTokenExtractor,
    Extractor,
    MapExtractor,
    NgramExtractor,
    PhotoExtractor,
    PixelExtractor,
    TokenExtractor,
    VectorExtractor,
)
from rakuten_tasks.models.members import MEMBERS
from rakuten_tasks.models.model_folder import PREFIX
from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES, TOP_FEATURES
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.preprocessing.photos import prepare_photos
from rakuten_tasks.preprocessing.text import clean
from rakuten_tasks.preprocessing.tokenizer import train_tokenizer, vocabulary_size

FEWEST_PHOTOS = 10  # to train on
CALIBRATION_PHOTOS = 64  # as good as 96: docs/benchmarks/quality.md
Texts = Callable[[], Iterable[tuple[str, str]]]
Photos = Callable[[], Sequence[bytes]]


def enough_photos(splits: NDArray) -> bool:
    """Tell whether photo members can be fitted. splits: (P,) of the rows with a photo, positions in splits.SPLITS."""
    counts = np.bincount(splits, minlength=TEST + 1)
    return bool(counts[TRAIN] >= FEWEST_PHOTOS and counts[VALIDATION] and counts[BLENDING])


def active_members(config: TrainingConfig, photos: bool = True) -> list[str]:
    """Return the names of those config.members that can be trained.

    config: as resolved by tasks/start_run.py. photos: whether the catalogue has enough of them. Raises ValueError if
    no member can be trained.
    """
    random, fine_tuned = config.photo.weights is Weights.RANDOM, config.photo.fine_tune_epochs > 0
    disabled = {
        "encoder": config.text.encoder == "none",
        "bag_encoder": config.text.encoder == "none",
        "transformer": config.text.fine_tune_epochs == 0,
        "photo": random,
        "vgg16": not random and not fine_tuned,
    }
    active = [name for name in config.members if not disabled.get(name, False)]
    if not photos:
        active = [name for name in active if MEMBERS[name].modality != "photo"]
    if not active:
        raise ValueError(
            f"members={config.members!r}: none of them has anything to do: the encoder is {config.text.encoder}, the "
            f"photo weights are {config.photo.weights.value}, the catalogue has {'enough' if photos else 'too few'} "
            "photos; name bag or lstm too, or set text.encoder, photo.weights"
        )
    return active


def extractors_of(member: str, config: TrainingConfig) -> tuple[str, ...]:
    """Return the names of the extractors whose arrays the member reads under this configuration."""
    names = MEMBERS[member].extractors
    if config.photo.fine_tune_epochs > 0:
        # it returns the photo features of the same forward pass too
        return tuple(dict.fromkeys(MapExtractor.name if name == PhotoExtractor.name else name for name in names))
    if config.photo.weights is Weights.RANDOM:
        return tuple(PixelExtractor.name if name == MapExtractor.name else name for name in names)
    return names


def extractor_settings(
    name: str, config: TrainingConfig, text: PretrainedWeights | None, photo: PretrainedWeights | None
) -> str:
    """Return all settings that an extractor depends on, as JSON: the key of its cached result. Paths are left out."""
    settings: dict[str, object] = {"extractor": name}
    if name == NgramExtractor.name:
        settings |= config.bag.to_dict()
    elif name == TokenExtractor.name:
        settings |= {"vocabulary_size": config.lstm.vocabulary_size, "max_tokens": config.lstm.max_tokens}
    elif name in (VectorExtractor.name, EncoderTokenExtractor.name):
        assert text is not None
        settings |= {**replace(config.text.for_vectors(), encoder="none", revision="").to_dict(), "sha256": text.sha256}
    else:
        assert photo is not None
        # a folder is identified by its files' hash, which covers the network's configuration
        backbone = PREFIX if photo.name.startswith(PREFIX) else photo.name
        settings |= {"image_size": config.photo.image_size, "backbone": backbone, "sha256": photo.sha256}
        settings |= {"precision": config.photo.precision.value} if name != PixelExtractor.name else {}
    return json.dumps(settings, sort_keys=True)


def reads_training_rows(name: str, config: TrainingConfig) -> bool:
    """Tell whether the extractor depends on the catalogue: a tokenizer, or a backbone in int8."""
    quantised = name == PhotoExtractor.name and config.photo.precision is Precision.INT8
    return quantised or name == TokenExtractor.name


def photo_bytes(extractors: Iterable[str], image_size: int) -> int:
    """Return the bytes of what VGG16 is trained on, of one photo: its pixels, or its features and maps in fp16."""
    maps = BACKBONE_FEATURES + TOP_FEATURES + 512 * (image_size // 16) ** 2
    sizes = {PixelExtractor.name: 3 * image_size**2, MapExtractor.name: 2 * maps}
    return sum(sizes.get(name, 0) for name in extractors)


def calibration_rows(rows: NDArray) -> NDArray:
    """Choose the training rows whose photos calibrate int8, by a hash of their numbers. (N,) -> (n,)"""
    hashes = pd.util.hash_array(np.asarray(rows, np.int64))
    return rows[np.argsort(hashes, kind="stable")[:CALIBRATION_PHOTOS]]


def build_extractor(name: str, config: TrainingConfig, texts: Texts, photos: Photos, device: torch.device) -> Extractor:
    """Make an extractor. Of training rows, the same each time, texts returns (title, description), for a tokenizer;
    photos those of `calibration_rows`, for a backbone in int8.
    """
    if name == NgramExtractor.name:
        return NgramExtractor(config.bag.ngram_bits)
    if name == TokenExtractor.name:
        return fit_tokenizer(texts, config.lstm.vocabulary_size, config.lstm.max_tokens)
    if name == VectorExtractor.name:
        return VectorExtractor(load_encoder(config.text, device))
    if name == EncoderTokenExtractor.name:
        encoder = load_encoder(config.text, device)
        assert isinstance(encoder, TransformerEncoder)
        return EncoderTokenExtractor.of(encoder)
    if name == PixelExtractor.name:
        return PixelExtractor(config.photo.image_size)
    backbone = load_backbone(config.photo, device)
    if config.photo.precision is Precision.INT8:
        assert isinstance(backbone, VGG16Backbone)
        backbone = backbone.quantise(prepare_photos(list(photos()), backbone.image_size))
    return MapExtractor(backbone) if name == MapExtractor.name else PhotoExtractor(backbone)


def fit_tokenizer(texts: Texts, size: int, max_tokens: int) -> TokenExtractor:
    """Train a tokenizer of `size` tokens, or as many as Heaps' law suggests if 0, in two passes over training rows.

    Raises ValueError if there are no rows.
    """
    words = sum(len(clean(text).split()) for pair in texts() for text in pair)
    if not words:
        raise ValueError("no training rows to learn a tokenizer from: check the split's shares and the catalogue")
    tokenizer = train_tokenizer((clean(text) for pair in texts() for text in pair), size or vocabulary_size(words))
    return TokenExtractor(tokenizer, max_tokens)
