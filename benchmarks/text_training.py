"""Time of an epoch of the member `lstm`, compared with a plain loop that tokenizes every epoch and packs sequences.

python -m benchmarks.text_training
Both use the same subwords, sizes, batches and optimiser, and two directions; the plain one classifies by its last
states. Ours is timed through `LSTM.fit`, as the difference of two epochs.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from benchmarks.timing import seconds
from rakuten_tasks.config import LSTMConfig, Refit
from rakuten_tasks.data.sample.generate import make_products
from rakuten_tasks.data.splits import TRAIN, VALIDATION
from rakuten_tasks.models.extractors import TokenExtractor
from rakuten_tasks.models.members import FitContext, TrainingData
from rakuten_tasks.models.members.lstm import LEARNING_RATE, LSTM, WEIGHT_DECAY, network_sizes
from rakuten_tasks.models.members.plan import fit_tokenizer
from rakuten_tasks.preprocessing.feature_shards import class_index, write_shard
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.training.hardware import choose_device

ADDED = 2  # epochs


class PlainLSTM(nn.Module):
    """A bidirectional LSTM over packed sequences, and a linear head."""

    def __init__(self, tokens: int, classes: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, embedding, padding_idx=0)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), (B,) -> (B, K)"""
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)  # (2, B, H)
        return self.head(torch.cat((last[0], last[1]), 1))


def train_plainly(rows: list[tuple[str, str, int]], tokenizer: PreTrainedTokenizerFast, classes: int) -> None:
    """Train one epoch in a plain PyTorch loop."""
    device, config = choose_device(), LSTMConfig()

    def batch(items: list[tuple[str, str, int]]) -> tuple[Tensor, Tensor, Tensor]:
        tokens = [
            torch.tensor(tokenizer(a, b, truncation=True, max_length=config.max_tokens)["input_ids"])
            for a, b, _ in items
        ]
        lengths = torch.tensor([len(ids) for ids in tokens])
        return pad_sequence(tokens, batch_first=True), lengths, torch.tensor([label for *_, label in items])

    network = PlainLSTM(len(tokenizer), classes, *network_sizes(len(rows))).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for tokens, lengths, labels in DataLoader(rows, config.batch_size, shuffle=True, collate_fn=batch):  # type: ignore[arg-type]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(tokens.to(device), lengths), labels.to(device)).backward()
        optimizer.step()


def prepare_data(folder: Path, count: int) -> tuple[TrainingData, TokenExtractor, list[tuple[str, str, int]]]:
    """Generate `count` training products, and an eighth as many to validate. -> data, tokenizer, training texts"""
    sample = make_products(count + count // 8, 0, seed=0)
    products = [Product(each.text.designation, each.text.description) for each in sample]
    texts = [(product.designation, product.description) for product in products]
    codes = sorted({each.code for each in sample})
    labels = class_index([each.code for each in sample], codes)
    splits = np.where(np.arange(len(sample)) < count, TRAIN, VALIDATION)
    config = LSTMConfig()
    extractor = fit_tokenizer(lambda: texts[:count], config.vocabulary_size, config.max_tokens)
    extractor.save(folder / "tokens")
    write_shard(folder / "shard", {"row": np.arange(len(sample)), **extractor.extract(products)})
    assignments = pd.DataFrame({"row": range(len(sample)), "label": labels, "split": splits, "fold": 0})
    data = TrainingData.load({"tokens": [folder / "shard"]}, assignments, len(codes), {"tokens": folder / "tokens"})
    return data, extractor, [(*pair, int(label)) for pair, label in zip(texts, labels, strict=True)][:count]


@click.command()
@click.option("--count", default=3000, help="products to train on")
def main(count: int) -> None:
    """Print both times and their ratio."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # required by the data loader's process
    with tempfile.TemporaryDirectory() as folder:
        data, extractor, rows = prepare_data(Path(folder), count)
        context = FitContext(0, choose_device(), Refit.NONE)

        def ours(epochs: int) -> float:
            return seconds(lambda: LSTM.fit(LSTMConfig(epochs=epochs), data, context))

        ours(1)  # warms up
        our_seconds = (ours(1 + ADDED) - ours(1)) / ADDED
        plain_seconds = min(seconds(lambda: train_plainly(rows, extractor.tokenizer, data.classes)) for _ in range(2))
    click.echo(f"{count} products, an epoch on {choose_device()}")
    click.echo(f"plain loop {plain_seconds:.1f} s, ours {our_seconds:.1f} s with {count // 8} validation rows")
    click.echo(f"ratio {plain_seconds / our_seconds:.1f}")


if __name__ == "__main__":
    main()
