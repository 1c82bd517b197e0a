"""The text branch: a bidirectional LSTM over subword tokens beside a linear bag of n-grams.

Trained together, the LSTM overfits and drags the bag down (docs: facts-challenge.md). So each is trained alone, the
bag to convergence and the LSTM with early stopping, and validation A says how much of each to add.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from rakuten_tasks.classifier.arrays import OFFSETS, ShardArrays
from rakuten_tasks.classifier.bag import Bag, fit_bag
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.training import Epoch, Schedule, fit, predict_logits
from rakuten_tasks.config import TextConfig

TRAIN, VALIDATION_A = 0, 1  # sides, by their index in catalogue.ledger.SIDES
PADDING = 0
WEIGHTS = "text.safetensors"
SHAPE = "text.json"


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    tokens: int
    buckets: int
    classes: int
    embedding: int = 128
    hidden: int = 128


class TokenLSTM(nn.Module):
    """Tokens -> logits: embedding, packed bidirectional LSTM, max and mean over the tokens, head."""

    def __init__(self, shape: Shape, word_dropout: float = 0.3, dropout: float = 0.5) -> None:
        super().__init__()
        self.word_dropout = word_dropout
        self.embed = nn.Embedding(shape.tokens, shape.embedding, padding_idx=PADDING)
        self.lstm = nn.LSTM(shape.embedding, shape.hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * shape.hidden, shape.classes)

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, T), padded -> (B, 4H)"""
        lengths = (tokens != PADDING).sum(1)
        embedded = self.dropout(self.embed(tokens))  # (B, T, E)
        if self.training:
            kept = torch.rand(tokens.shape, device=tokens.device) >= self.word_dropout
            embedded = embedded * kept.unsqueeze(2)
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)  # (B, T, 2H)
        mask = (tokens[:, : states.shape[1]] == PADDING).unsqueeze(2)  # (B, T, 1)
        highest = states.masked_fill(mask, float("-inf")).amax(1)  # (B, 2H)
        mean = states.masked_fill(mask, 0).sum(1) / lengths.unsqueeze(1)  # (B, 2H)
        return torch.cat((highest, mean), 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, K)"""
        return self.head(self.dropout(self.pooled(tokens)))


class TextBranch(nn.Module):
    """Bag and LSTM, each with its scale."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.bag = Bag(shape.buckets, shape.classes)
        self.lstm = TokenLSTM(shape)
        self.register_buffer("scales", torch.ones(2))  # of the bag, of the LSTM

    def forward(self, tokens: Tensor, ngrams: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
        """(B, T) tokens; (M,) buckets and (M,) weights, each product's from its start in (B,) on -> (B, K)"""
        return self.scales[0] * self.bag(ngrams, weights, starts) + self.scales[1] * self.lstm(tokens)

    def save(self, folder: Path) -> None:
        """Write text.safetensors and text.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS)
        (folder / SHAPE).write_text(json.dumps(asdict(self.shape)))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """What `save` wrote, ready to predict."""
        branch = cls(Shape(**json.loads((folder / SHAPE).read_text())))
        branch.load_state_dict(load_file(folder / WEIGHTS))
        return branch.to(device).eval()


def padded(tokens: Sequence[NDArray]) -> Tensor:
    """B token lists -> (B, T) int64"""
    return pad_sequence([torch.from_numpy(row.astype(np.int64)) for row in tokens], True, PADDING)


def bags(ngrams: Sequence[NDArray], weights: Sequence[NDArray]) -> tuple[Tensor, Tensor, Tensor]:
    """B lists of buckets and of weights -> (M,), (M,) and the starts (B,)"""
    starts = np.cumsum([0, *map(len, ngrams)])[:-1]
    flat = np.concatenate(ngrams).astype(np.int64), np.concatenate(weights), starts
    buckets, values, at = map(torch.from_numpy, flat)
    return buckets, values, at


class TextExamples:
    """Shards' rows for the whole branch."""

    def __init__(self, arrays: ShardArrays) -> None:
        self.arrays = arrays
        self.labels = arrays.column("label")

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> what TextBranch reads."""
        ngrams, weights = (self.arrays.take_ragged(name, rows) for name in ("ngrams", "weights"))
        return padded(self.arrays.take_ragged("tokens", rows)), *bags(ngrams, weights)


class TokenExamples:
    """Shards' rows for the LSTM alone."""

    def __init__(self, arrays: ShardArrays) -> None:
        self.arrays = arrays
        self.labels = arrays.column("label")

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> (B, T) tokens."""
        return (padded(self.arrays.take_ragged("tokens", rows)),)


@torch.inference_mode()
def text_logits(branch: TextBranch, encoded: Mapping[str, NDArray]) -> NDArray:
    """Scores of what `Vocabulary.encode` gave for N products, in one batch. (N, K) fp32"""
    tokens, ngrams, weights = (
        np.split(encoded[name], encoded[name + OFFSETS][1:-1]) for name in ("tokens", "ngrams", "weights")
    )
    device = branch.scales.device
    inputs = (padded(tokens), *bags(ngrams, weights))
    return branch.eval()(*(tensor.to(device) for tensor in inputs)).float().cpu().numpy()


def train_text_branch(
    shards: Sequence[Path],
    vocabulary: Vocabulary,
    codes: Sequence[int],
    config: TextConfig,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[TextBranch, list[Epoch]]:
    """Bag, then LSTM, on the training side; validation A stops the LSTM and sets the scales. The epochs are the LSTM's."""
    arrays = ShardArrays(shards)
    known = arrays.column("label") >= 0
    train, valid = (np.flatnonzero(known & (arrays.column("side") == side)) for side in (TRAIN, VALIDATION_A))
    torch.manual_seed(seed)
    branch = TextBranch(Shape(vocabulary.size, vocabulary.buckets, len(codes))).to(device)
    examples = TextExamples(arrays)
    fit_bag(branch.bag, training_bags(arrays, train, vocabulary.buckets), examples.labels[train])
    schedule = Schedule(config.epochs or 30, config.batch_size, patience=6, label_smoothing=0.1)
    optimizer = torch.optim.AdamW(branch.lstm.parameters(), lr=config.learning_rate or 4e-3, weight_decay=0.05)
    tokens = TokenExamples(arrays)
    epochs = fit(branch.lstm, tokens, train, valid, schedule, optimizer, seed, on_epoch, "LSTM")
    with torch.no_grad():
        branch.scales.copy_(fit_scales(branch, examples, valid, config.batch_size))
    return branch.eval(), epochs


def training_bags(arrays: ShardArrays, rows: NDArray, buckets: int) -> sparse.csr_array:
    """Rows' weighed n-grams as one sparse matrix, held whole: about 10 KB a product. (len(rows), buckets)"""
    ngrams, weights = (arrays.take_ragged(name, rows) for name in ("ngrams", "weights"))
    ends = np.cumsum([0, *map(len, ngrams)])
    return sparse.csr_array((np.concatenate(weights), np.concatenate(ngrams), ends), shape=(len(rows), buckets))


def fit_scales(branch: TextBranch, examples: TextExamples, rows: NDArray, batch_size: int) -> Tensor:
    """The scales, 0 or more, of bag and LSTM with the least cross-entropy on `rows`. (2,)"""
    device = branch.scales.device
    parts = []
    for scales in ((1.0, 0.0), (0.0, 1.0)):
        branch.scales.copy_(torch.tensor(scales))
        parts.append(predict_logits(branch, examples, rows, batch_size, device))
    labels = examples.labels[rows]

    def loss(scales: NDArray) -> float:
        mixed = sum(scale * part for scale, part in zip(scales, parts, strict=True))
        return -float(log_softmax(mixed, 1)[np.arange(len(rows)), labels].mean())

    return torch.tensor(minimize(loss, np.ones(2), bounds=[(0, None)] * 2, method="L-BFGS-B").x, dtype=torch.float32)
