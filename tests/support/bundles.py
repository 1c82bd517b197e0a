"""Bundles whose weights are drawn at random: made in a second, loaded and served like trained ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient

from rakuten_tasks.config import (
    BagConfig,
    LSTMConfig,
    PhotoConfig,
    Refit,
    TextConfig,
    TrainingConfig,
    Weights,
)
from rakuten_tasks.models.backbones.frozen import Description
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.bundle import (
    EVALUATION,
    EXTRACTORS_FOLDER,
    MANIFEST,
    MEMBERS_FOLDER,
    Lineage,
    Manifest,
)
from rakuten_tasks.models.encoders import load_encoder, resolve_encoder
from rakuten_tasks.models.extractors import (
    Extractor,
    MapExtractor,
    NgramExtractor,
    PhotoExtractor,
    PixelExtractor,
    TokenExtractor,
    VectorExtractor,
)
from rakuten_tasks.models.linear_model import LinearClassifier
from rakuten_tasks.models.members import MEMBERS, Member
from rakuten_tasks.models.members.linear import LinearMember, Standardizer
from rakuten_tasks.models.members.lstm import LSTM
from rakuten_tasks.models.members.plan import fit_tokenizer
from rakuten_tasks.models.members.vgg16 import VGG16, VGG16Config
from rakuten_tasks.models.networks.token_lstm import TokenLSTM, TokenLSTMConfig
from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES, TOP_FEATURES, Convolutions
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.models.pool import Pool
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.preprocessing.ngrams import Tfidf, count_ngrams
from rakuten_tasks.registry import versions

CPU = torch.device("cpu")
NAMES = {10: "livres", 1300: "drones", 2583: "piscine", 2705: "romans"}
TEXTS = [
    ("Piscine ronde", "Liner bleu et pompe pour piscine hors sol"),
    ("Drone quadricoptère", "Drone avec caméra et batterie de rechange"),
    ("Roman policier", "Un livre de poche en très bon état"),
    ("Chaussures homme", "Chaussures en cuir pour homme, taille 42"),
]
TINY = ("bag", "lstm", "vgg16")
ENCODED = ("bag", "lstm", "encoder", "bag_encoder")  # the text members by default
RANDOM = PretrainedWeights("vgg16", "random numbers", "NONE", "random")


def write_bundle(
    folder: Path,
    seed: int = 0,
    image_size: int = 32,
    names: dict[int, str] | None = None,
    members: Sequence[str] = TINY,
    refit: Refit = Refit.EXCEPT_TEST,
    warning: str = "",
    bits: int = 12,
    hidden: tuple[int, int] = (24, 16),
    thresholds: Mapping[str, float] | None = None,
) -> Path:
    """A bundle of these members. Another seed gives other answers.

    vgg16 is whole, and beside photo it is block 5 on the backbone's maps. warning: of the photo's weights. bits: of the
    hashed n-grams. hidden: the LSTM's embedding and hidden size, unequal as network_sizes gives them. thresholds: see
    `make_pool`.
    """
    names = names or NAMES
    config = TrainingConfig(
        refit=refit,
        bag=BagConfig(ngram_bits=bits),
        lstm=LSTMConfig(vocabulary_size=300),
        text=TextConfig(encoder="use-multilingual" if "encoder" in members else "none"),
        photo=PhotoConfig(weights=Weights.RANDOM, image_size=image_size),
    )
    torch.manual_seed(seed)
    maker = _Maker(len(names), config, image_size, hidden, tuned={"photo", "vgg16"} <= set(members))
    made = {name: maker.member(name) for name in members}
    for name, member in made.items():
        member.save(folder / MEMBERS_FOLDER / name)
    for extractor in dict.fromkeys(name for member in made.values() for name in member.extractors):
        maker.extractor(extractor).save(folder / EXTRACTORS_FOLDER / extractor)
    scores = {metric: {"value": 0.5, "low": 0.4, "high": 0.6} for metric in ("weighted_f1", "macro_f1", "accuracy")}
    (folder / EVALUATION).write_text(json.dumps({"systems": {"pool": scores}}))
    pretrained = [PretrainedWeights(**{**RANDOM.to_dict(), "warning": warning})]
    pretrained += [resolve_encoder(config.text)[1]] if "encoder" in members else []
    lineage = Lineage("tests", "0", True, "0", "none", "none", "none", "none", "0", pretrained)
    Manifest(
        sorted(names),
        {str(code): name for code, name in names.items()},
        {name: list(member.extractors) for name, member in made.items()},
        make_pool({name: member.modality for name, member in made.items()}, len(names), thresholds),
        config,
        lineage,
    ).write(folder)
    return folder


def make_pool(modality: Mapping[str, str], classes: int, thresholds: Mapping[str, float] | None = None) -> Pool:
    """Each member with a weight of its own, of products with one modality and with both; the prior is uniform.

    thresholds: by early stage, for products with text and with both. The LSTM joins after all early stages.
    """
    weight = {name: 0.6 + 0.2 * place for place, name in enumerate(modality)}
    kinds = [kind for kind in ("text", "photo") if kind in modality.values()]
    sets = [[kind] for kind in kinds] + ([kinds] if len(kinds) > 1 else [])
    weights = {"+".join(s): {name: weight[name] for name, kind in modality.items() if kind in s} for s in sets}
    stages = {"words": ["bag"], "sentences": ["bag", "encoder", "bag_encoder"]}
    early = {stage: {name: weight[name] for name in stages[stage]} for stage in thresholds or {}}
    by_kind = {kind: dict(thresholds) for kind in ("text", "text+photo")} if thresholds else {}
    return Pool(dict(modality), {**early, **weights}, dict.fromkeys(modality, 1.0), [1 / classes] * classes, by_kind)


class _Maker:
    """tuned: vgg16 reads the backbone's maps, so that photo reads its features from there too."""

    def __init__(
        self, classes: int, config: TrainingConfig, image_size: int, hidden: tuple[int, int], tuned: bool
    ) -> None:
        self.classes, self.config, self.image_size, self.hidden, self.tuned = classes, config, image_size, hidden, tuned

    def member(self, name: str) -> Member:
        member = {"lstm": self._lstm, "vgg16": self._vgg16}.get(name, lambda: self._linear(name))()
        if self.tuned and member.modality == "photo":
            member.extractors = (MapExtractor.name,)
        return member

    def _linear(self, name: str) -> Member:
        kind = MEMBERS[name]
        assert issubclass(kind, LinearMember)
        bits, size = (
            self.config.bag.ngram_bits,
            {"": 0, "vectors": 1024, "photo": BACKBONE_FEATURES + TOP_FEATURES}[kind.array],
        )
        table = torch.randn((1 << bits) if "ngrams" in kind.extractors else 0, self.classes)
        weight = torch.randn(size, self.classes) * (1.0 if kind.array != "vectors" or not kind.standardize else 0.03)
        designations, descriptions = zip(*TEXTS, strict=True)
        counts = count_ngrams(designations, descriptions, bits)
        tfidf = Tfidf.fit(counts) if "ngrams" in kind.extractors else None
        ones = np.ones(size, dtype=np.float32)
        scaler = Standardizer(0 * ones, ones / 10, kind.unit) if kind.standardize else None
        return kind(LinearClassifier(table, weight, torch.randn(self.classes) / 10), tfidf, scaler)

    def _lstm(self) -> Member:
        tokens = len(self._tokenizer().tokenizer)
        network = TokenLSTM(TokenLSTMConfig(tokens, self.classes, *self.hidden))
        torch.nn.init.normal_(network.head.weight, std=0.3)
        return LSTM(network)

    def _vgg16(self) -> Member:
        config = VGG16Config(not self.tuned, True, self.image_size, self.classes)
        network = config.network()
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                torch.nn.init.zeros_(layer.bias)
        head: Any = network.head if self.tuned else network.upper.head
        torch.nn.init.normal_(head.linear.weight, std=0.05)
        member = VGG16(network, config)
        member.extractors = (PixelExtractor.name,)
        return member

    def extractor(self, name: str) -> Extractor:
        make: dict[str, Callable[[], Extractor]] = {
            NgramExtractor.name: lambda: NgramExtractor(self.config.bag.ngram_bits),
            TokenExtractor.name: self._tokenizer,
            VectorExtractor.name: lambda: VectorExtractor(load_encoder(self.config.text, CPU)),
            PixelExtractor.name: lambda: PixelExtractor(self.image_size),
            PhotoExtractor.name: lambda: PhotoExtractor(self._backbone()),
            MapExtractor.name: lambda: MapExtractor(self._backbone()),
        }
        return make[name]()

    def _tokenizer(self) -> TokenExtractor:
        return fit_tokenizer(lambda: iter(TEXTS), self.config.lstm.vocabulary_size, self.config.lstm.max_tokens)

    def _backbone(self) -> VGG16Backbone:
        description = Description(
            "vgg16", BACKBONE_FEATURES + TOP_FEATURES, self.image_size, RANDOM, {"batch_norm": True}
        )
        return VGG16Backbone(Convolutions(random_convolutions(), self.image_size), description, CPU)


def of_schema(bundle: Path, version: int) -> Path:
    """The same bundle, as if another version of the package had written it."""
    manifest = bundle / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": version}))
    return bundle


def register(client: MlflowClient, model: str, bundle: Path) -> int:
    """A new version, which becomes the champion."""
    run = client.create_run(versions.experiment_id(client))
    version = versions.register(client, model, bundle, run.info.run_id, {})
    versions.promote(client, model, version, "tests", "a test")
    return version
