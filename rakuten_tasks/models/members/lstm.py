"""The member `lstm`: trained with early stopping on held-out rows, then again on everything but the test rows."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rakuten_tasks.config import LSTMConfig, TrainingConfig
from rakuten_tasks.config_base import Strict
from rakuten_tasks.models.extractors import TokenExtractor
from rakuten_tasks.models.linear_model import dense_product
from rakuten_tasks.models.members.held_out import Examples, HeldOutFit, Phase
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.models.networks.token_lstm import PADDING, TokenLSTM, TokenLSTMConfig
from rakuten_tasks.preprocessing.feature_shards import OFFSETS, ShardArrays
from rakuten_tasks.training.schedule import Schedule

WEIGHTS = "lstm.safetensors"
CONFIG = "lstm.json"
LABEL_SMOOTHING = 0.1
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.05
STEPS, EPOCHS = 800, (8, 60)  # number of steps, and bounds of the number of epochs
# Bounds the time: from 1.2 million rows on there are fewer than 8 epochs of them. The network has its full size from
# 63,000 rows on
MAX_STEPS = 150_000


class LSTM:
    """Subword tokens of title and description, by a bidirectional LSTM."""

    name: ClassVar[str] = "lstm"
    modality: ClassVar[str] = "text"
    cheap: ClassVar[bool] = True
    pod: ClassVar[str] = "gpu"
    seeded: ClassVar[bool] = True
    extractors: tuple[str, ...] = (TokenExtractor.name,)

    def __init__(self, network: TokenLSTM) -> None:
        self.network = network.eval()

    @classmethod
    def settings(cls, config: TrainingConfig) -> LSTMConfig:
        return config.lstm

    @classmethod
    def fit(cls, settings: Strict, data: TrainingData, context: FitContext) -> FitResult:
        assert isinstance(settings, LSTMConfig)
        return _LSTMFit(settings, data, context).run()

    def logits_and_embedding(self, arrays: Mapping[str, NDArray]) -> tuple[NDArray, NDArray]:
        tokens = np.split(arrays["tokens"], arrays["tokens" + OFFSETS][1:-1])
        head = self.network.head
        with torch.inference_mode():
            pooled = self.network.pooled(pad(tokens).to(head.weight.device))
            logits = dense_product(pooled, head.weight.T) + head.bias
        return logits.cpu().numpy(), pooled.cpu().numpy()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.network.state_dict(), folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(asdict(self.network.config)))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        network = TokenLSTM(TokenLSTMConfig(**json.loads((folder / CONFIG).read_text())))
        network.load_state_dict(load_file(folder / WEIGHTS))
        return cls(network.to(device))


class _LSTMFit(HeldOutFit[TokenLSTM]):
    def __init__(self, settings: LSTMConfig, data: TrainingData, context: FitContext) -> None:
        super().__init__(settings, data, context, TokenExtractor.name)
        self.settings = settings
        self.vocabulary = len(TokenExtractor.load(self.extractor_folder, context.device).tokenizer)
        self.sizes = network_sizes(len(self.train_rows))

    def new_network(self, suffix: str, rows: NDArray) -> TokenLSTM:
        lstm = TokenLSTM(TokenLSTMConfig(self.vocabulary, self.data.classes, *self.sizes)).to(self.context.device)
        phase = f"embedding{suffix}"
        if result := self.checkpoints.finished.get(phase):
            lstm.embed.load_state_dict(result["model"])
            return lstm
        lstm.init_embedding_from_svd(token_counts(self.arrays, rows, self.vocabulary), self.context.seed)
        self.checkpoints.finish(phase, {"model": copy.deepcopy(lstm.embed.state_dict())})
        return lstm

    def phases(self, network: TokenLSTM, rows: NDArray) -> list[Phase]:
        config = self.settings
        epochs = config.epochs or default_epochs(len(self.train_rows), config.batch_size)
        schedule = Schedule(epochs, config.batch_size, max(3, epochs // 5), LABEL_SMOOTHING)
        rate = config.learning_rate or LEARNING_RATE
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
        examples = Examples(self.data.labels, lambda rows, augment: (pad(self.arrays.take_ragged("tokens", rows)),))
        return [Phase("LSTM", network, examples, schedule, optimizer)]

    def member(self, network: TokenLSTM) -> LSTM:
        return LSTM(network)


def default_epochs(rows: int, batch_size: int) -> int:
    """Return the number of epochs for this many training rows."""
    at_most = max(1, MAX_STEPS * batch_size // rows)
    return min(int(np.clip(STEPS * batch_size // rows, *EPOCHS)), at_most)


def network_sizes(rows: int) -> tuple[int, int]:
    """Return embedding and hidden size for this many training rows: 64 hidden up to 4,000, then as the square root."""
    hidden = int(np.clip(16 * round(rows**0.5 / 16), 64, 256))
    # different sizes: with equal ones oneDNN rounds one product differently alone and in a batch
    return hidden * 3 // 2, hidden


def pad(tokens: list[NDArray]) -> Tensor:
    """B token lists -> (B, T) int64"""
    return pad_sequence([torch.from_numpy(row.astype(np.int64)) for row in tokens], True, PADDING)


def token_counts(arrays: ShardArrays, rows: NDArray, tokens: int) -> sparse.csr_array:
    """Count each token in each row. (len(rows), tokens)"""
    row_tokens = arrays.take_ragged("tokens", rows)
    ends = np.cumsum([0, *map(len, row_tokens)])
    if ends[-1] < 2**31:  # else scipy makes the indices int64 too
        ends = ends.astype(np.int32)
    counts = sparse.csr_array(
        (np.ones(ends[-1], dtype=np.float32), np.concatenate(row_tokens), ends), shape=(len(rows), tokens)
    )
    counts.sum_duplicates()
    return counts
