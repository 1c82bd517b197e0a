"""Text systems of the quality benchmark: what a user would pick instead, ours, and ours with one lever removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_union
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from benchmarks.quality_split import Split, write_arrays
from rakuten_tasks.catalogue.ledger import TRAIN, VALIDATION_A
from rakuten_tasks.classifier import lstm, ngrams, text_mix
from rakuten_tasks.classifier.calibration import fit_temperature
from rakuten_tasks.classifier.lstm import TextBranch, text_logits, train_text_branch
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.text import clean
from rakuten_tasks.classifier.text_examples import PADDING
from rakuten_tasks.classifier.training import choose_device
from rakuten_tasks.config import TextConfig

SLICE = 256
WORDS, LENGTH, WIDTH, EPOCHS = 10_000, 100, 128, 10  # of the plain LSTM
SVC, LOGISTIC = "TF-IDF + LinearSVC", "TF-IDF + logistic regression"
PLAIN, TEXT, BAG, LSTM = "plain LSTM, last state", "text branch", "bag of n-grams alone", "LSTM alone"

Logits = NDArray  # (H, K): of a split's held-out rows


def linear_systems(split: Split) -> dict[str, Logits]:
    """TF-IDF of words (1-2) and characters (2-5), all of them, under two linear models; penalty by validation A."""
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, dtype=np.float32),
    )
    train = features.fit_transform(_joined(split, split.on(TRAIN)))
    valid, held_out = (features.transform(_joined(split, at)) for at in (split.on(VALIDATION_A), split.held_out))
    models: dict[str, list] = {
        SVC: [LinearSVC(C=c, max_iter=20_000, random_state=0) for c in (0.03, 0.1, 0.2, 0.5, 1.0, 3.0)],
        LOGISTIC: [
            OneVsRestClassifier(LogisticRegression(C=c, solver="liblinear", dual=True, max_iter=2000, random_state=0))
            for c in (3.0, 10.0, 30.0, 100.0)
        ],
    }

    def validated(model: LinearSVC) -> float:
        model.fit(train, split.labels[split.on(TRAIN)])
        return f1_score(split.labels[split.on(VALIDATION_A)], model.predict(valid), average="weighted")

    best = {name: max(tried, key=validated) for name, tried in models.items()}
    return {name: _all_classes(model.decision_function(held_out), model, split) for name, model in best.items()}


def _all_classes(scores: NDArray, model: LinearSVC, split: Split) -> Logits:
    """Scores of the classes that were trained on -> of all; two classes have one column of scores."""
    if scores.ndim == 1:
        scores = np.stack([-scores, scores], 1)
    full = np.full((len(scores), len(split.codes)), scores.min() - 1)
    full[:, model.classes_] = scores
    return full


def _joined(split: Split, at: NDArray) -> list[str]:
    return [clean(f"{title} {description}") for title, description in zip(*split.texts(at), strict=True)]


def our_systems(split: Split, folder: Path) -> dict[str, Logits]:
    """The text branch, and each half of it alone."""
    branch, vocabulary = _trained(split, folder)
    logits = {TEXT: _scored(branch, vocabulary, split)}
    for name, scales in ((BAG, (1.0, 0.0)), (LSTM, (0.0, 1.0))):
        branch.scales.copy_(torch.tensor(scales))
        logits[name] = _scored(branch, vocabulary, split)
    return logits


def without_levers(split: Split, folder: Path) -> Iterator[tuple[str, Logits]]:
    """The branch, then its LSTM alone, with one lever removed at a time."""
    for name, removed in LEVERS.items():
        with removed():
            branch, vocabulary = _trained(split, folder)
            yield f"{TEXT}, {name}", _scored(branch, vocabulary, split)
            branch.scales.copy_(torch.tensor((0.0, 1.0)))
            yield f"{LSTM}, {name}", _scored(branch, vocabulary, split)


def _trained(split: Split, folder: Path) -> tuple[TextBranch, Vocabulary]:
    config = TextConfig()
    vocabulary = Vocabulary.fit(lambda: zip(*split.texts(split.on(TRAIN)), strict=True), config)
    everything = np.arange(len(split.labels))
    path = write_arrays(split, everything, vocabulary.encode(*split.texts(everything)), folder / "text")
    branch, _ = train_text_branch([path], vocabulary, split.codes, config, split.seed, choose_device())
    return branch, vocabulary


def _scored(branch: TextBranch, vocabulary: Vocabulary, split: Split) -> Logits:
    """From raw texts, as in serving."""
    starts = range(0, len(split.held_out), SLICE)
    parts = (vocabulary.encode(*split.texts(split.held_out[start : start + SLICE])) for start in starts)
    return np.concatenate([text_logits(branch, encoded) for encoded in parts])


def _last_state(network: lstm.TokenLSTM, tokens: Tensor) -> Tensor:
    """In place of TokenLSTM.pooled: the last state of each direction, in the place of all its pools."""
    mask = tokens != PADDING  # (B, T)
    embedded = network.embed(tokens)  # (B, T, E)
    if network.training:
        embedded = embedded * (torch.rand(tokens.shape, device=tokens.device) >= lstm.WORD_DROPOUT).unsqueeze(2)
    embedded = network.dropout(embedded)
    last = (mask.sum(1) - 1).clamp(min=0)  # (B,)
    places = (last[:, None] - torch.arange(tokens.shape[1], device=tokens.device)).clamp(min=0)  # (B, T)
    turned = embedded.gather(1, places.unsqueeze(2).expand_as(embedded))
    rows = torch.arange(len(tokens), device=tokens.device)
    states = torch.cat((network.onward(embedded)[0][rows, last], network.back(turned)[0][rows, last]), 1)  # (B, 2H)
    rest = states.new_zeros(len(states), network.head.in_features - states.shape[1])
    return torch.cat((states, rest), 1)


def _one_direction(pooled: Callable, network: lstm.TokenLSTM, tokens: Tensor) -> Tensor:
    """TokenLSTM.pooled without what the backward direction gives."""
    features = pooled(network, tokens).clone()  # (B, 4H + E): maxima and means of onward and back, words
    hidden = network.back.hidden_size
    features[:, hidden : 2 * hidden] = 0
    features[:, 3 * hidden : 4 * hidden] = 0
    return features


def _whole_texts(titles: list[str], descriptions: list[str], bits: int) -> list:
    """In place of ngrams._blocks: no blocks of titles."""
    blocks = BLOCKS(titles, descriptions, bits)
    return [csr_array(blocks[0].shape, dtype=np.float32), csr_array(blocks[1].shape, dtype=np.float32), *blocks[2:]]


BLOCKS = ngrams._blocks


def _no_curve(scores: NDArray, labels: NDArray) -> tuple[float, float]:
    """In place of text_mix.fit_curve: a temperature alone."""
    return 1 / fit_temperature(scores, labels), text_mix.FLAT


@contextmanager
def _removed(*patches: Callable[[], mock._patch]) -> Iterator[None]:
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch())
        yield


def _lever(owner: object, name: str, value: object) -> Callable[[], mock._patch]:
    return partial(mock.patch.object, owner, name, value)


LEVERS: Mapping[str, Callable] = {
    "last state for pooling": partial(_removed, _lever(lstm.TokenLSTM, "pooled", _last_state)),
    "one direction": partial(
        _removed,
        _lever(lstm.TokenLSTM, "pooled", lambda *args, full=lstm.TokenLSTM.pooled: _one_direction(full, *args)),
    ),
    "title and description as one field": partial(
        _removed, _lever(ngrams, "_blocks", _whole_texts), _lever(lstm, "SEPARATOR_ID", -1)
    ),
    "256 hidden units, whatever the rows": partial(_removed, _lever(lstm, "_sizes", lambda rows: (384, 256))),
    "titles weighed as whole texts": partial(_removed, _lever(ngrams, "LENGTHS", ngrams.FORMER_LENGTHS)),
    "bag's scores not bent": partial(_removed, _lever(text_mix, "fit_curve", _no_curve)),
    "no dropout": partial(_removed, _lever(lstm, "WORD_DROPOUT", 0.0), _lever(lstm, "DROPOUT", 0.0)),
    "no label smoothing": partial(_removed, _lever(lstm, "LABEL_SMOOTHING", 0.0)),
    "embedding not started from SVD": partial(
        _removed, _lever(lstm.TokenLSTM, "start_from", lambda network, counts, seed: None)
    ),
}


class _PlainLSTM(nn.Module):
    """Words -> embedding -> LSTM -> last state -> softmax, as public notebooks have it: one field, padding in front."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, words: Tensor) -> Tensor:
        """(B, LENGTH) -> (B, K)"""
        return self.head(self.lstm(self.embed(words))[0][:, -1])


def plain_lstm(split: Split) -> Logits:
    """Adam at 1e-3, batches of 32, the epoch that is best on validation A."""
    torch.manual_seed(split.seed)
    device = choose_device()
    train, valid = split.on(TRAIN), split.on(VALIDATION_A)
    numbers = _numbered(split)
    words, labels = torch.from_numpy(numbers).to(device), torch.from_numpy(split.labels).to(device)
    network = _PlainLSTM(len(split.codes)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    best, kept = np.inf, np.empty(0)
    for _ in range(EPOCHS):
        network.train()
        for at in torch.from_numpy(train)[torch.randperm(len(train))].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(words[at]), labels[at]).backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            logits = torch.cat([network(part) for part in words.split(SLICE)]).cpu().numpy()
        loss = -log_softmax(logits[valid], 1)[np.arange(len(valid)), split.labels[valid]].mean()
        if loss < best:
            best, kept = loss, logits[split.held_out]
    return kept


def _numbered(split: Split) -> NDArray:
    """The last LENGTH words of each text by frequency among training rows; 0 in front, 1 for other words."""
    texts = [text.lower().split() for text in _joined(split, np.arange(len(split.labels)))]
    words, counts = np.unique([word for row in split.on(TRAIN) for word in texts[row]], return_counts=True)
    frequent = words[np.argsort(-counts, kind="stable")][: WORDS - 2]
    number = {word: i + 2 for i, word in enumerate(frequent)}
    result = np.zeros((len(texts), LENGTH), dtype=np.int64)
    for row, text in zip(result, texts, strict=True):
        ids = [number.get(word, 1) for word in text[-LENGTH:]]
        row[LENGTH - len(ids) :] = ids
    return result
