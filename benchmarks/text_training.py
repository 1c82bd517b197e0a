"""An epoch of the member `lstm` beside the ordinary loop, which tokenizes every epoch and packs its sequences.

python -m benchmarks.text_training
Both have the same subwords, sizes, batches and optimiser, and two directions; the ordinary one classifies by its last
states. Ours is timed through `LSTM.fit`, as what two more epochs add.
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
from rakuten_tasks.training.loop import choose_device

ADDED = 2  # epochs


class Ordinary(nn.Module):
    """As people write it."""

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


def ordinary(rows: list[tuple[str, str, int]], tokenizer: PreTrainedTokenizerFast, classes: int) -> None:
    """One epoch."""
    device, config = choose_device(), LSTMConfig()

    def batch(items: list[tuple[str, str, int]]) -> tuple[Tensor, Tensor, Tensor]:
        tokens = [
            torch.tensor(tokenizer(a, b, truncation=True, max_length=config.max_tokens)["input_ids"])
            for a, b, _ in items
        ]
        lengths = torch.tensor([len(ids) for ids in tokens])
        return pad_sequence(tokens, batch_first=True), lengths, torch.tensor([label for *_, label in items])

    network = Ordinary(len(tokenizer), classes, *network_sizes(len(rows))).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for tokens, lengths, labels in DataLoader(rows, config.batch_size, shuffle=True, collate_fn=batch):  # type: ignore[arg-type]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(tokens.to(device), lengths), labels.to(device)).backward()
        optimizer.step()


def prepared(folder: Path, count: int) -> tuple[TrainingData, TokenExtractor, list[tuple[str, str, int]]]:
    """Made-up products: `count` to train on, an eighth as many to stop by; those to train on as texts and labels."""
    made = make_products(count + count // 8, 0, seed=0)
    products = [Product(each.text.designation, each.text.description) for each in made]
    texts = [(product.designation, product.description) for product in products]
    codes = sorted({each.code for each in made})
    labels = class_index([each.code for each in made], codes)
    splits = np.where(np.arange(len(made)) < count, TRAIN, VALIDATION)
    config = LSTMConfig()
    extractor = fit_tokenizer(lambda: texts[:count], config.vocabulary_size, config.max_tokens)
    extractor.save(folder / "tokens")
    write_shard(folder / "shard", {"row": np.arange(len(made)), **extractor.extract(products)})
    assignments = pd.DataFrame({"row": range(len(made)), "label": labels, "split": splits, "fold": 0})
    data = TrainingData.load({"tokens": [folder / "shard"]}, assignments, len(codes), {"tokens": folder / "tokens"})
    return data, extractor, [(*pair, int(label)) for pair, label in zip(texts, labels, strict=True)][:count]


@click.command()
@click.option("--count", default=3000, help="products to train on")
def main(count: int) -> None:
    """Print both times and their ratio."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the loader's own process
    with tempfile.TemporaryDirectory() as folder:
        data, extractor, rows = prepared(Path(folder), count)
        context = FitContext(0, choose_device(), Refit.NONE)

        def ours(epochs: int) -> float:
            return seconds(lambda: LSTM.fit(LSTMConfig(epochs=epochs), data, context))

        ours(1)  # warms up
        mine = (ours(1 + ADDED) - ours(1)) / ADDED
        theirs = min(seconds(lambda: ordinary(rows, extractor.tokenizer, data.classes)) for _ in range(2))
    click.echo(f"{count} products, an epoch on {choose_device()}")
    click.echo(f"ordinary loop {theirs:.1f} s, ours {mine:.1f} s with its pooling and its look at {count // 8} more")
    click.echo(f"ratio {theirs / mine:.1f}")


if __name__ == "__main__":
    main()
