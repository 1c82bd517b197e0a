"""The member `lstm`, from raw text on: what it learns, what it may not see, and that its answers depend on nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from rakuten_tasks.config import LSTMConfig, Refit
from rakuten_tasks.data.splits import BLENDING, TEST, TRAIN, VALIDATION
from rakuten_tasks.models.extractors import TokenExtractor
from rakuten_tasks.models.members.lstm import LSTM, default_epochs, network_sizes, token_counts
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.models.members.plan import fit_tokenizer
from rakuten_tasks.models.networks.token_lstm import PADDING, TokenLSTM, TokenLSTMConfig
from rakuten_tasks.preprocessing.feature_shards import OFFSETS, FeatureTable, ShardArrays
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.training import hardware
from tests.support.training_data import CPU, assert_same, labelled_products, row_numbers, training_data, without_timings

COUNT, HELD_OUT = 90, 12
CONFIG = LSTMConfig(vocabulary_size=320, epochs=5, batch_size=12)


def tokens_of(products, splits) -> TokenExtractor:
    train = [(products[place].designation, products[place].description) for place in np.flatnonzero(splits == TRAIN)]
    return fit_tokenizer(lambda: train, CONFIG.vocabulary_size, CONFIG.max_tokens)


def case(folder: Path, products, labels, splits) -> TrainingData:
    return training_data(folder, [tokens_of(products, splits)], products, labels, splits)


def fit(data: TrainingData, refit: Refit = Refit.EXCEPT_TEST, seed: int = 0, config: LSTMConfig = CONFIG, **where):
    return LSTM.fit(config, data, FitContext(seed, CPU, refit, **where))


def spoilt(splits, *sides):
    """The same products, but on these sides they are others, under other labels."""
    products, labels, _ = labelled_products(COUNT, HELD_OUT)
    for place in np.flatnonzero(np.isin(splits, sides)):
        products[place] = Product(f"rebut {place}", "qqq " * 50)
        labels[place] = 2 - labels[place]
    return products, labels, splits


def of_the_network(member: LSTM) -> dict[str, torch.Tensor]:
    return member.network.state_dict()


@pytest.fixture(scope="module", autouse=True)
def fp32():
    """bf16, where this processor has it, rounds more coarsely than what is compared here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "half_precision", lambda device: False)
        yield


@pytest.fixture(scope="module")
def products():
    return labelled_products(COUNT, HELD_OUT)


@pytest.fixture(scope="module")
def data(products, tmp_path_factory) -> TrainingData:
    return case(tmp_path_factory.mktemp("data"), *products)


@pytest.fixture(scope="module")
def fitted(data) -> FitResult:
    return fit(data)


@pytest.fixture(scope="module")
def everything(data) -> FitResult:
    """Once more, with a final member on every row."""
    return fit(data, Refit.EVERYTHING)


@pytest.fixture(scope="module")
def extractor(data) -> TokenExtractor:
    return TokenExtractor.load(data.folders["tokens"], CPU)


def test_the_member_learns_what_the_titles_tell(fitted, extractor):
    products, labels, _ = labelled_products(60, seed=9)
    logits, _ = fitted.member.logits_and_embedding(extractor.extract(products))
    assert (logits.argmax(1) == labels).mean() > 0.95


def test_it_scores_validation_and_blending_unseen_and_says_which_rows_stopped_it(fitted, data, products):
    _, labels, splits = products
    assert fitted.rows.tolist() == np.flatnonzero(np.isin(splits, (VALIDATION, BLENDING))).tolist()
    assert fitted.stopping.tolist() == (splits[fitted.rows] == VALIDATION).tolist()
    assert (fitted.logits.shape, fitted.logits.dtype) == ((24, 3), np.float32)
    assert (fitted.logits.argmax(1) == labels[fitted.rows]).mean() > 0.9
    logs = torch.from_numpy(fitted.logits[fitted.stopping])
    loss = torch.nn.functional.cross_entropy(logs, torch.from_numpy(labels[fitted.rows[fitted.stopping]]))
    best = min(epoch.valid_loss for epoch in fitted.epochs if epoch.valid_loss == epoch.valid_loss)
    assert float(loss) == pytest.approx(best, abs=1e-4)


def test_it_is_trained_again_for_as_many_epochs_as_were_best_and_nothing_is_validated_then(fitted):
    judged, again = (
        [epoch for epoch in fitted.epochs if np.isnan(epoch.valid_loss) == later] for later in (False, True)
    )
    assert [epoch.number for epoch in judged] == [1, 2, 3, 4, 5]
    best = min(judged, key=lambda epoch: epoch.valid_loss).number
    assert [epoch.number for epoch in again] == list(range(1, best + 1))
    assert fitted.epochs == judged + again
    assert fitted.details == {"best epochs": str(best)}


def test_without_a_refit_the_member_is_the_one_that_was_judged(data, fitted, extractor, products):
    judged = fit(data, Refit.NONE)
    assert fitted.final is None
    assert judged.final is None
    assert len(judged.epochs) == 5
    np.testing.assert_array_equal(judged.logits, fitted.logits)
    held_out = [products[0][place] for place in judged.rows]
    np.testing.assert_allclose(
        judged.member.logits_and_embedding(extractor.extract(held_out))[0], judged.logits, atol=1e-5
    )
    again, _ = fitted.member.logits_and_embedding(extractor.extract(held_out))
    assert np.abs(again - judged.logits).max() > 0.1


def test_the_same_seed_gives_the_same_member_bit_for_bit_and_test_rows_change_the_final_one_alone(
    data, fitted, everything, tmp_path
):
    spoilt_test = fit(case(tmp_path, *spoilt(data.splits, TEST)), Refit.EVERYTHING)
    for again in (everything, spoilt_test):
        assert_same(of_the_network(again.member), of_the_network(fitted.member))
        np.testing.assert_array_equal(again.logits, fitted.logits)
        assert without_timings(again.epochs) == without_timings(fitted.epochs)
    finals = [of_the_network(found.final)["head.bias"] for found in (everything, spoilt_test)]
    assert not torch.equal(*finals)
    assert not torch.equal(finals[0], of_the_network(fitted.member)["head.bias"])
    ours, theirs = (TokenExtractor.load(folder, CPU) for folder in (data.folders["tokens"], tmp_path / "tokens"))
    assert ours.tokenizer.backend_tokenizer.to_str() == theirs.tokenizer.backend_tokenizer.to_str()


def test_another_seed_gives_another_member(data, fitted):
    other = fit(data, Refit.NONE, seed=1)
    assert np.abs(other.logits - fitted.logits).max() > 0.01


def test_blending_rows_neither_stop_the_training_nor_change_the_validation_scores(data, fitted, tmp_path):
    again = fit(case(tmp_path, *spoilt(data.splits, BLENDING)), Refit.NONE)
    assert without_timings(again.epochs) == without_timings(fitted.epochs)[:5]
    np.testing.assert_array_equal(again.logits[again.stopping], fitted.logits[fitted.stopping])
    assert np.abs(again.logits[~again.stopping] - fitted.logits[~fitted.stopping]).max() > 0.1


def test_the_validation_split_stops_the_training_and_changes_no_step_of_it(data, fitted, tmp_path):
    again = fit(case(tmp_path, *spoilt(data.splits, VALIDATION)), Refit.NONE)
    assert [epoch.train_loss for epoch in again.epochs] == [epoch.train_loss for epoch in fitted.epochs[:5]]
    assert again.epochs[0].valid_loss != fitted.epochs[0].valid_loss


def test_a_product_has_the_same_bits_alone_in_a_batch_and_from_its_shard(fitted, data, extractor, products):
    member, found = fitted.member, products[0][:40]
    together = member.logits_and_embedding(extractor.extract(found))
    alone = [member.logits_and_embedding(extractor.extract([product])) for product in found]
    table = FeatureTable(data.arrays["tokens"].paths)
    kept = member.logits_and_embedding(table.take(row_numbers(COUNT)[39::-1]))
    for part, batch in enumerate(together):
        np.testing.assert_array_equal(np.concatenate([answer[part] for answer in alone]), batch)
        np.testing.assert_array_equal(kept[part][::-1], batch)


def test_logits_are_the_head_of_the_embedding(fitted, extractor, products):
    logits, embedding = fitted.member.logits_and_embedding(extractor.extract(products[0][:5]))
    head = fitted.member.network.head
    assert embedding.shape == (5, head.in_features)
    with torch.inference_mode():
        np.testing.assert_allclose(head(torch.from_numpy(embedding)), logits, atol=1e-5)


def test_a_product_of_unknown_words_or_none_gets_finite_logits(fitted, extractor):
    logits, _ = fitted.member.logits_and_embedding(extractor.extract([Product("Ω"), Product(" ", "<br>")]))
    assert np.isfinite(logits).all()


def test_a_member_saved_and_loaded_gives_the_same_bits(fitted, extractor, products, tmp_path):
    fitted.member.save(tmp_path / "lstm")
    assert sorted(path.name for path in (tmp_path / "lstm").iterdir()) == ["lstm.json", "lstm.safetensors"]
    features = extractor.extract(products[0][:9])
    again = LSTM.load(tmp_path / "lstm", CPU)
    for ours, theirs in zip(
        again.logits_and_embedding(features), fitted.member.logits_and_embedding(features), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_padding_changes_no_bit(fitted):
    tokens = torch.tensor([[5, 9, 1, 7]])
    longer = torch.tensor([[5, 9, 1, 7, 0, 0, 0], [8, 8, 1, 8, 8, 8, 8]])
    with torch.inference_mode():
        short, padded = (fitted.member.network.pooled(batch)[0] for batch in (tokens, longer))
    assert torch.equal(short, padded)


def test_each_direction_reads_from_its_own_end(fitted, data):
    first, *_, last = data.arrays["tokens"].take_ragged("tokens", np.array([0]))[0][:4].tolist()
    assert first != last
    with torch.inference_mode():
        one_way, other_way = fitted.member.network(torch.tensor([[first, 9, last, 1], [last, 9, first, 1]]))
    assert (one_way - other_way).abs().max() > 1e-4


def test_words_that_come_together_begin_with_vectors_that_are_near(tmp_path):
    together = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]], dtype=np.float32)
    counts = sparse.csr_array(np.hstack([np.zeros((5, 2), np.float32), together]))
    network = TokenLSTM(TokenLSTMConfig(tokens=6, classes=2, embedding=3, hidden=2))
    network.init_embedding_from_svd(counts, seed=0)
    vectors = network.state_dict()["embed.weight"]
    assert vectors[PADDING].tolist() == [0, 0, 0]
    alike = torch.nn.functional.cosine_similarity
    assert alike(vectors[2], vectors[3], dim=0) > 0.99
    assert abs(alike(vectors[2], vectors[4], dim=0)) < 0.01


def test_tokens_are_counted_in_the_rows_that_are_asked_for(data):
    arrays, rows = data.arrays["tokens"], np.array([70, 3])
    counts = token_counts(arrays, rows, 320)
    found = [np.bincount(tokens, minlength=320) for tokens in arrays.take_ragged("tokens", rows)]
    np.testing.assert_array_equal(counts.toarray(), found)
    assert counts.indices.dtype == counts.indptr.dtype == np.int32


def test_sizes_grow_with_the_rows_and_are_never_alike():
    assert [network_sizes(rows) for rows in (50, 4000, 80_000)] == [(96, 64), (96, 64), (384, 256)]


def test_without_epochs_in_the_configuration_small_catalogues_get_more(data, monkeypatch):
    class StartedError(Exception):
        """Raised in place of a training."""

    def start(part, examples, rows, valid, schedule, *rest):
        raise StartedError(schedule)

    monkeypatch.setattr("rakuten_tasks.models.members.held_out.fit", start)
    with pytest.raises(StartedError) as started:
        fit(data, config=LSTMConfig(vocabulary_size=320))
    (schedule,) = started.value.args
    assert (schedule.epochs, schedule.patience, schedule.batch_size) == (60, 12, 64)


@pytest.mark.parametrize(("train", "stopping"), [(1, 12), (54, 0)])
def test_too_few_rows_are_refused_with_the_way_out(tmp_path, train, stopping):
    products, labels, splits = labelled_products(COUNT, HELD_OUT)
    splits[np.flatnonzero(splits == TRAIN)[train:]] = TEST
    splits[np.flatnonzero(splits == VALIDATION)[stopping:]] = TEST
    found = training_data(tmp_path, [tokens_of(products, splits)], products, labels, splits)
    message = rf"{train} rows to train on and {stopping} to stop on are too few for a network: leave it out of members"
    with pytest.raises(ValueError, match=message):
        fit(found)


def test_what_shards_keep_of_tokens_is_read_row_by_row(data):
    arrays = ShardArrays(data.arrays["tokens"].paths)
    assert arrays.names == ["row", "tokens", "tokens" + OFFSETS]
    assert arrays.column("row").tolist() == row_numbers(COUNT).tolist()


@pytest.mark.parametrize(("rows", "epochs"), [(100, 60), (3_200, 16), (1_000_000, 8), (2_000_000, 4), (50_000_000, 1)])
def test_the_number_of_epochs_is_bounded_by_steps(rows: int, epochs: int) -> None:
    assert default_epochs(rows, 64) == epochs
