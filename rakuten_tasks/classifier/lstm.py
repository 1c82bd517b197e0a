"""The text branch: a bidirectional LSTM over subword tokens beside a linear bag of n-grams.

Trained together, the LSTM overfits and drags the bag down. So each is trained alone, the bag to convergence and the
LSTM with early stopping, and validation A says how much of the LSTM to mix in, if any.
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
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import normalize
from torch import Tensor, nn
from torch.nn import functional

from rakuten_tasks.catalogue.ledger import TRAIN, VALIDATION_A
from rakuten_tasks.classifier.arrays import OFFSETS, ShardArrays
from rakuten_tasks.classifier.bag import Bag, fit_bag
from rakuten_tasks.classifier.checkpoint import INTERVAL, Checkpoints, CheckpointStore, Record, checkpoints_of
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.text_examples import (
    PADDING,
    BagExamples,
    TokenExamples,
    bags,
    padded,
    token_counts,
    training_bags,
)
from rakuten_tasks.classifier.text_mix import FLAT, fit_mix
from rakuten_tasks.classifier.training import Epoch, Schedule, fit, predict_logits
from rakuten_tasks.config import TextConfig

SEPARATOR_ID = 1  # the token id of text.SEPARATOR
WEIGHTS = "text.safetensors"
SHAPE = "text.json"

WORD_DROPOUT, DROPOUT = 0.3, 0.5
EMBEDDING_STD = 0.3
LABEL_SMOOTHING = 0.1  # of the LSTM alone: it costs the bag 3 points
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.05
STEPS, EPOCHS = 800, (8, 60)  # so many steps, within so many epochs


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    tokens: int
    buckets: int
    classes: int
    embedding: int
    hidden: int


class TokenLSTM(nn.Module):
    """Tokens -> logits: embedding, LSTM in both directions, pooling over the tokens, head.

    Each direction starts at the product's own first or last token and padding comes after, so no state that is pooled
    has seen padding: what packed sequences give, whose backward pass on the CPU is quadratic in the length (1.9 s
    against 0.5 s for 64 products of up to 128 tokens, torch 2.14).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed = nn.Embedding(shape.tokens, shape.embedding, padding_idx=PADDING)
        self.field = nn.Embedding(2, shape.embedding)  # title, description
        self.onward = nn.LSTM(shape.embedding, shape.hidden, batch_first=True)
        self.back = nn.LSTM(shape.embedding, shape.hidden, batch_first=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(4 * shape.hidden + shape.embedding, shape.classes)
        nn.init.normal_(self.embed.weight, std=EMBEDDING_STD)
        nn.init.zeros_(self.embed.weight[PADDING])
        nn.init.zeros_(self.field.weight)

    def start_from(self, counts: sparse.csr_array, seed: int) -> None:
        """Set the embedding to latent semantics of the training rows' token counts (N, tokens), by truncated SVD.

        Rows that share words bring those words' vectors together before the first step: 4 points of weighted F1 for
        the LSTM on 3,278 French products.
        """
        weighed = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
        size = min(self.embed.embedding_dim, min(counts.shape) - 1)
        svd = TruncatedSVD(size, random_state=seed).fit(weighed)
        vectors = normalize((svd.components_ * svd.singular_values_[:, None]).T)  # (tokens, size)
        with torch.no_grad():
            self.embed.weight[:, :size] = torch.from_numpy(vectors * EMBEDDING_STD * size**0.5)
            self.embed.weight[PADDING] = 0

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, T), padded -> (B, 4H + E)"""
        mask = tokens != PADDING  # (B, T)
        lengths = mask.sum(1, keepdim=True)  # (B, 1)
        embedded = self.embed(tokens) + self.field((tokens == SEPARATOR_ID).cumsum(1).clamp(max=1))  # (B, T, E)
        if self.training:  # whole words vanish
            mask_words = torch.rand(tokens.shape, device=tokens.device) >= WORD_DROPOUT
            embedded = embedded * mask_words.unsqueeze(2)
        embedded = self.dropout(embedded)
        places = lengths - 1 - torch.arange(tokens.shape[1], device=tokens.device)  # (B, T): last token first
        turned = embedded.gather(1, places.clamp(min=0).unsqueeze(2).expand_as(embedded))  # (B, T, E)
        states = torch.cat((self.onward(embedded)[0], self.back(turned)[0]), 2)  # (B, T, 2H)
        kept = mask.unsqueeze(2)  # (B, T, 1)
        highest = states.masked_fill(~kept, -1).amax(1)  # (B, 2H); a state is above -1
        mean = (states * kept).sum(1) / lengths  # (B, 2H)
        words = (embedded * kept).sum(1) / lengths.sqrt()  # (B, E)
        return torch.cat((highest, mean, words), 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, K)"""
        return self.head(self.dropout(self.pooled(tokens)))


class TextBranch(nn.Module):
    """Bag and LSTM, mixed as text_mix.Mix has it."""

    curve: Tensor  # (2,): slope and offset of what the bag says
    scales: Tensor  # (2,): of the bag, of the LSTM

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.bag = Bag(shape.buckets, shape.classes)
        self.lstm = TokenLSTM(shape)
        self.register_buffer("curve", torch.tensor((1.0, FLAT)))
        self.register_buffer("scales", torch.ones(2))

    def forward(self, tokens: Tensor, ngrams: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
        """(B, T) tokens; (M,) buckets and (M,) weights, each product's from its start in (B,) on -> (B, K)"""
        bag = functional.logsigmoid(self.curve[0] * self.bag(ngrams, weights, starts) + self.curve[1])
        return self.scales[0] * bag + self.scales[1] * self.lstm(tokens)

    def save(self, folder: Path) -> None:
        """Write text.safetensors and text.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS)
        (folder / SHAPE).write_text(json.dumps(asdict(self.shape)))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """What `save` wrote, ready to predict."""
        branch = cls(Shape(**json.loads((folder / SHAPE).read_text())))
        # a bundle from before the curve has none: scores as they are
        branch.load_state_dict({"curve": branch.curve, **load_file(folder / WEIGHTS)})
        return branch.to(device).eval()


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
    store: CheckpointStore | None = None,
    interval: float = INTERVAL,
) -> tuple[TextBranch, list[Epoch]]:
    """Bag, then LSTM, on the training side; validation A stops the LSTM and says how much of it to mix in.

    The epochs are the LSTM's. Same seed, shards and machine type: same weights, bit for bit.
    store: an interrupted training goes on from what it keeps, and writes to it every `interval` seconds.
    """
    arrays = ShardArrays(shards)
    labels, sides = arrays.column("label"), arrays.column("side")
    train, valid = (np.flatnonzero((labels >= 0) & (sides == side)) for side in (TRAIN, VALIDATION_A))
    torch.manual_seed(seed)
    branch = TextBranch(Shape(vocabulary.size, vocabulary.buckets, len(codes), *_sizes(len(train)))).to(device)
    checkpoints = checkpoints_of(store, interval, [seed, config.to_dict(), [*codes]], shards, branch.state_dict())
    if fitted := checkpoints.take("bag"):
        branch.load_state_dict(fitted.tensors, strict=False)
    else:
        fit_bag(branch.bag, training_bags(arrays, train, vocabulary.buckets), labels[train])
        branch.lstm.start_from(token_counts(arrays, train, vocabulary.size), seed)
        fixed = {name: branch.state_dict()[name].clone() for name in ("bag.table", "bag.bias", "lstm.embed.weight")}
        checkpoints.save("bag", Record(fixed, {}, finished=True))
    bags, tokens = BagExamples(arrays), TokenExamples(arrays)
    epochs = _fit_lstm(branch.lstm, tokens, train, valid, config, seed, on_epoch, checkpoints)
    bag = predict_logits(branch.bag, bags, valid, config.batch_size, device)
    lstm = predict_logits(branch.lstm, tokens, valid, config.batch_size, device)
    mix = fit_mix(bag, lstm, labels[valid])
    branch.curve.copy_(torch.tensor((mix.slope, mix.offset)))
    branch.scales.copy_(torch.tensor((mix.bag, mix.lstm)))
    return branch.eval(), epochs


def _sizes(rows: int) -> tuple[int, int]:
    """Embedding and hidden size for this many training rows: they grow with the square root, 64 hidden to 4,000."""
    hidden = int(np.clip(16 * round(rows**0.5 / 16), 64, 256))
    return hidden * 3 // 2, hidden


def _fit_lstm(
    lstm: TokenLSTM,
    examples: TokenExamples,
    train: NDArray,
    valid: NDArray,
    config: TextConfig,
    seed: int,
    on_epoch: Callable[[Epoch], None],
    checkpoints: Checkpoints,
) -> list[Epoch]:
    epochs = config.epochs or int(np.clip(STEPS * config.batch_size // len(train), *EPOCHS))
    schedule = Schedule(epochs, config.batch_size, max(3, epochs // 5), LABEL_SMOOTHING)
    optimizer = torch.optim.AdamW(
        lstm.parameters(), lr=config.learning_rate or LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    return fit(lstm, examples, train, valid, schedule, optimizer, seed, on_epoch, "LSTM", checkpoints)
