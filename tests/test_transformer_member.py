"""The member `transformer`: a small BERT that is trained with its head."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rakuten_tasks.classifier import training
from rakuten_tasks.classifier.encoders import load_encoder
from rakuten_tasks.classifier.encoders.transformer import TransformerEncoder
from rakuten_tasks.classifier.extractors import EncoderTokenExtractor
from rakuten_tasks.classifier.members.member import FitContext, Fitted, TrainingData
from rakuten_tasks.classifier.members.transformer import HEAD_RATE, FineTunedEncoder, Transformer, parameter_groups
from rakuten_tasks.classifier.training import Schedule, fit
from rakuten_tasks.config import Refit, TextConfig
from tests.test_checkpoint import Kept
from tests.test_resume import Cutting, PowerCut
from tests.test_training import Points
from tests.tiny_models import write_bert
from tests.training_data import CPU, assert_same, labelled_products, timeless, training_data


@pytest.fixture(scope="module", autouse=True)
def fp32():
    """bf16, where this processor has it, rounds more coarsely than what is compared here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "half_precision", lambda device: False)
        yield


def config_of(bert: Path, **changes: object) -> TextConfig:
    settings = {"fine_tune_epochs": 2, "learning_rate": 1e-3, "batch_size": 16, **changes}
    return TextConfig(encoder=f"hf:{bert}", **settings)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def data(bert, tmp_path_factory) -> TrainingData:
    encoder = load_encoder(config_of(bert), CPU)
    assert isinstance(encoder, TransformerEncoder)
    products, labels, splits = labelled_products(90)
    return training_data(tmp_path_factory.mktemp("data"), [EncoderTokenExtractor.of(encoder)], products, labels, splits)


def train(data: TrainingData, bert: Path, store: Kept | None = None, **changes: object) -> Fitted:
    context = FitContext(0, CPU, Refit.NONE, store=store, interval=0)
    return Transformer.fit(config_of(bert, **changes), data, context)


@pytest.fixture(scope="module")
def fitted(data, bert) -> Fitted:
    return train(data, bert)


def test_it_learns(fitted):
    assert [epoch.number for epoch in fitted.epochs] == [1, 2]
    assert fitted.epochs[1].train_loss < fitted.epochs[0].train_loss
    assert fitted.logits.shape == (30, 3)


def test_each_layer_learns_slower_than_the_one_above_it_and_the_head_fastest(bert):
    encoder = load_encoder(config_of(bert), CPU)
    assert isinstance(encoder, TransformerEncoder)
    network = FineTunedEncoder(encoder, 3)
    groups = parameter_groups(network, 1e-3, 0.5)
    # embeddings and what has no number, two layers, the head
    assert [group["lr"] for group in groups] == pytest.approx([1e-3 / 4, 1e-3 / 2, 1e-3, HEAD_RATE * 1e-3])
    counted = sum(len(group["params"]) for group in groups)  # type: ignore[arg-type]
    assert counted == len(list(network.parameters()))


def test_the_rate_rises_and_falls_in_straight_lines():
    model = torch.nn.Linear(3, 2)
    rates: list[float] = []

    class Recorded(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    optimizer = Recorded(model.parameters(), lr=0.1)
    fit(model, Points(), np.arange(40), np.arange(40, 64), Schedule(2, 8, 9, warmup=0.4), optimizer, 0)
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, *(0.1 * left / 6 for left in range(6, 0, -1))])


def test_gradient_checkpointing_changes_memory_and_no_loss(data, bert, fitted):
    again = train(data, bert, gradient_checkpointing=True)
    ours = [epoch.train_loss for epoch in again.epochs]
    assert ours == pytest.approx([epoch.train_loss for epoch in fitted.epochs], abs=1e-4)


def test_interrupted_it_goes_on_and_ends_with_the_same_bits(data, bert, fitted):
    store = Cutting(None, 4)
    with pytest.raises(PowerCut):
        train(data, bert, store)
    again = train(data, bert, Kept(store.blob))
    assert_same(again.member.network.state_dict(), fitted.member.network.state_dict())
    assert timeless(again.epochs) == timeless(fitted.epochs)
    assert again.logits.tobytes() == fitted.logits.tobytes()


def test_a_product_gets_the_same_answer_alone_among_others_and_from_a_bundle(data, fitted, tmp_path):
    # as a bundle keeps the extractor: without the encoder, which the member brings
    folder = shutil.copytree(
        data.folders["encoder_tokens"], tmp_path / "tokens", ignore=shutil.ignore_patterns("*.safetensors")
    )
    extractor = EncoderTokenExtractor.load(Path(folder), CPU)
    products = labelled_products(20, held_out=2, seed=3)[0]
    fitted.member.save(tmp_path / "member")
    saved = Transformer.load(tmp_path / "member", CPU)
    logits, embedding = fitted.member.evidence(extractor.extract(products))
    assert embedding.shape == (20, 16)
    for member in (fitted.member, saved):
        for place in (0, 7, 19):
            alone = member.evidence(extractor.extract([products[place]]))[0]
            assert alone[0].tobytes() == logits[place].tobytes()
    with pytest.raises(ValueError, match="read from a bundle, which lacks the encoder"):
        extractor.save(tmp_path / "again")
