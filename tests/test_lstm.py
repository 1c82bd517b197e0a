import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rakuten_tasks.catalogue.ledger import TEST, TRAIN, VALIDATION_A, VALIDATION_B
from rakuten_tasks.classifier import bag
from rakuten_tasks.classifier.arrays import ShardArrays, write_shard
from rakuten_tasks.classifier.bag import Bag, fit_bag
from rakuten_tasks.classifier.lstm import WEIGHTS, TextBranch, text_logits, train_text_branch
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.text_examples import BagExamples, TokenExamples, training_bags
from rakuten_tasks.classifier.training import predict_logits
from rakuten_tasks.config import TextConfig

CPU = torch.device("cpu")
CODES = [10, 20, 30]
CONFIG = TextConfig(vocabulary_size=320, ngram_bits=12, epochs=3, batch_size=16)
THINGS = ["piscine gonflable ronde", "figurine de collection", "roman policier broché"]
MORE = ["neuf", "occasion", "lot de deux", "bleu", "rouge", "envoi rapide", "état correct"]


def catalogue(count, seed=0):
    """Titles, descriptions (a third missing), labels and sides."""
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    titles = [f"{THINGS[label]} {random.choice(MORE)} {random.integers(50)}" for label in labels]
    descriptions = [" ".join(random.choice(MORE, 6)) if random.random() < 0.65 else "" for _ in labels]
    sides = random.permutation(np.repeat(np.uint8([TRAIN, VALIDATION_A, VALIDATION_B, TEST]), [count - 45, 15, 15, 15]))
    return titles, descriptions, labels, sides


def train(folder, titles, descriptions, labels, sides, seed=0):
    """The whole path, from raw text to a trained branch, over two shards."""
    products = list(zip(titles, descriptions, strict=True))
    vocabulary = Vocabulary.fit(lambda: [products[i] for i in np.flatnonzero(sides == TRAIN)], CONFIG)
    shards, rows = [], np.arange(len(labels))
    for number, part in enumerate(np.array_split(rows, 2)):
        encoded = vocabulary.encode([titles[i] for i in part], [descriptions[i] for i in part])
        shards.append(folder / f"{number}.safetensors")
        write_shard(shards[-1], {"row": part, "label": labels[part], "side": sides[part]} | encoded)
    branch, epochs = train_text_branch(shards, vocabulary, CODES, CONFIG, seed, CPU)
    return vocabulary, branch, epochs, shards


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("shards"), *catalogue(135))


def test_the_branch_learns_what_the_titles_tell(trained):
    vocabulary, branch, epochs, _ = trained
    titles, descriptions, labels, _ = catalogue(60, seed=9)
    predicted = text_logits(branch, vocabulary.encode(titles, descriptions)).argmax(1)
    assert (predicted == labels).mean() > 0.95
    assert len(epochs) == 3


def test_a_product_has_the_same_logits_alone_in_a_batch_and_from_its_shard(trained):
    vocabulary, branch, _, shards = trained
    titles, descriptions, _, _ = catalogue(135)
    batch = text_logits(branch, vocabulary.encode(titles, descriptions))
    alone = [text_logits(branch, vocabulary.encode([titles[i]], [descriptions[i]]))[0] for i in range(0, 135, 9)]
    np.testing.assert_allclose(np.stack(alone), batch[::9], atol=1e-5)
    arrays, rows = ShardArrays(shards), np.arange(135)
    bag = torch.from_numpy(predict_logits(branch.bag, BagExamples(arrays), rows, 16, CPU))
    lstm = torch.from_numpy(predict_logits(branch.lstm, TokenExamples(arrays), rows, 16, CPU))
    (slope, offset), scales = branch.curve, branch.scales
    from_shards = scales[0] * torch.nn.functional.logsigmoid(slope * bag + offset) + scales[1] * lstm
    np.testing.assert_allclose(from_shards, batch, atol=1e-5)


def test_a_bundle_from_before_the_curve_answers_as_it_did(trained, tmp_path):
    vocabulary, branch, _, shards = trained
    branch.save(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors["curve"]
    save_file(tensors | {"scales": torch.tensor((2.0, 0.5))}, tmp_path / WEIGHTS)
    encoded = vocabulary.encode(*catalogue(135)[:2])
    answers = torch.from_numpy(text_logits(TextBranch.load(tmp_path, CPU), encoded)).softmax(1)
    arrays, rows = ShardArrays(shards), np.arange(135)
    bag = torch.from_numpy(predict_logits(branch.bag, BagExamples(arrays), rows, 16, CPU))
    lstm = torch.from_numpy(predict_logits(branch.lstm, TokenExamples(arrays), rows, 16, CPU))
    np.testing.assert_allclose(answers, (2 * bag + 0.5 * lstm).softmax(1), atol=1e-4)


def test_a_product_without_text_gets_finite_logits(trained):
    vocabulary, branch, _, _ = trained
    logits = text_logits(branch, vocabulary.encode(["", "zzz"], ["", ""]))
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()


def test_padding_changes_nothing(trained):
    _, branch, _, _ = trained
    tokens = torch.tensor([[5, 9, 1, 7]])
    longer = torch.tensor([[5, 9, 1, 7, 0, 0, 0], [8, 8, 1, 8, 8, 8, 8]])
    with torch.inference_mode():
        np.testing.assert_allclose(branch.lstm(tokens)[0], branch.lstm(longer)[0], atol=1e-6)


def test_each_direction_reads_from_its_own_end(trained):
    _, branch, _, _ = trained
    with torch.inference_mode():
        one_way, other_way = branch.lstm(torch.tensor([[5, 9, 7, 1], [7, 9, 5, 1]]))
    assert (one_way - other_way).abs().max() > 1e-4


def test_the_embedding_vector_has_one_row_for_each_product(trained):
    vocabulary, branch, _, _ = trained
    tokens = torch.from_numpy(vocabulary.encode(["piscine ronde"], [""])["tokens"].astype(np.int64))
    with torch.inference_mode():
        vectors = branch.lstm.pooled(tokens[None])
    assert vectors.shape == (1, branch.lstm.head.in_features)


def test_a_branch_saved_and_loaded_gives_the_same_logits(trained, tmp_path):
    vocabulary, branch, _, _ = trained
    branch.save(tmp_path)
    encoded = vocabulary.encode(["roman policier"], ["neuf"])
    assert np.array_equal(text_logits(TextBranch.load(tmp_path, CPU), encoded), text_logits(branch, encoded))


def test_the_same_seed_gives_the_same_branch_bit_for_bit(trained, tmp_path):
    _, branch, _, _ = trained
    _, again, _, _ = train(tmp_path, *catalogue(135))
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in branch.state_dict().items())


def test_validation_b_and_test_rows_change_nothing_that_is_learned(trained, tmp_path):
    vocabulary, branch, _, _ = trained
    titles, descriptions, labels, sides = catalogue(135)
    for i in np.flatnonzero((sides == VALIDATION_B) | (sides == TEST)):
        titles[i], descriptions[i], labels[i] = f"rebut {i}", "qqq " * 50, 2 - labels[i]
    spoilt, again, _, _ = train(tmp_path, titles, descriptions, labels, sides)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in branch.state_dict().items())
    assert np.array_equal(vocabulary.idf, spoilt.idf)


def test_validation_a_changes_neither_tokenizer_nor_idf_nor_bag(trained, tmp_path):
    vocabulary, branch, _, _ = trained
    titles, descriptions, labels, sides = catalogue(135)
    for i in np.flatnonzero(sides == VALIDATION_A):
        titles[i], descriptions[i], labels[i] = f"rebut {i}", "qqq " * 50, 2 - labels[i]
    spoilt, again, _, _ = train(tmp_path, titles, descriptions, labels, sides)
    assert vocabulary.tokenizer.backend_tokenizer.to_str() == spoilt.tokenizer.backend_tokenizer.to_str()
    assert np.array_equal(vocabulary.idf, spoilt.idf)
    assert torch.equal(branch.bag.table, again.bag.table)


def test_rows_without_a_label_are_not_trained_on(trained, tmp_path):
    _, branch, _, _ = trained
    titles, descriptions, labels, sides = catalogue(135)
    more = (["roman inconnu"], ["sans étiquette"], np.int64([-1]), np.uint8([TEST]))
    _, again, _, _ = train(
        tmp_path, titles + more[0], descriptions + more[1], np.append(labels, more[2]), np.append(sides, more[3])
    )
    assert torch.equal(branch.bag.table, again.bag.table)


def bags_of(trained):
    """The training rows' bags and their labels."""
    vocabulary, _, _, shards = trained
    arrays = ShardArrays(shards)
    rows = np.flatnonzero(arrays.column("side") == TRAIN)
    return training_bags(arrays, rows, vocabulary.buckets), arrays.column("label")[rows]


def test_the_bag_is_at_its_optimum(trained):
    branch = trained[1]
    bags, labels = bags_of(trained)
    again = Bag(bags.shape[1], len(CODES))
    fit_bag(again, bags[::-1], labels[::-1].copy())  # the order of the rows is no matter
    assert (again.table - branch.bag.table).abs().max() < 1e-2 * branch.bag.table.abs().max()


def test_many_classes_are_fitted_some_at_a_time_to_the_same_optimum(trained, monkeypatch):
    branch, fits = trained[1], []
    monkeypatch.setattr(bag, "_fit", lambda *args, fit=bag._fit: fits.append(args[2].shape[1]) or fit(*args))
    bags, labels = bags_of(trained)
    monkeypatch.setattr(bag, "AT_ONCE", 2 * len(np.unique(bags.indices)))
    again = Bag(bags.shape[1], len(CODES))
    fit_bag(again, bags, labels)
    assert fits == [2, 1]
    # L-BFGS stops a little beside it, elsewhere each time
    assert (again.table - branch.bag.table).abs().max() < 3e-2 * branch.bag.table.abs().max()
    assert (again.bias - branch.bag.bias).abs().max() < 3e-2


def test_the_bag_does_not_spoil_the_rows_it_is_given_nor_double_their_indices(trained):
    bags, labels = bags_of(trained)
    before = bags.copy()
    fit_bag(Bag(bags.shape[1], len(CODES)), bags, labels)
    assert abs(bags - before).nnz == 0
    assert bags.indices.dtype == bags.indptr.dtype == np.int32
