"""An epoch of the text branch's LSTM beside the ordinary loop, which tokenizes every epoch and packs its sequences.

python -m benchmarks.text_training
Both have the same subwords, sizes, batches and optimiser, and two directions; the ordinary one classifies by its last
states. Ours is timed through `train_text_branch`, as what two more epochs add.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

from benchmarks.timing import seconds
from rakuten_tasks.catalogue.ledger import TRAIN, VALIDATION_A
from rakuten_tasks.catalogue.sample import make_products
from rakuten_tasks.classifier.arrays import class_index, write_shard
from rakuten_tasks.classifier.lstm import LEARNING_RATE, WEIGHT_DECAY, train_text_branch
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.training import choose_device
from rakuten_tasks.config import TextConfig

EMBEDDING, HIDDEN = 96, 64  # what the branch takes for up to 4,000 rows
ADDED = 2  # epochs


class Ordinary(nn.Module):
    """As people write it."""

    def __init__(self, tokens: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, EMBEDDING, padding_idx=0)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * HIDDEN, classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), (B,) -> (B, K)"""
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)  # (2, B, H)
        return self.head(torch.cat((last[0], last[1]), 1))


def ordinary(rows: list[tuple[str, str, int]], vocabulary: Vocabulary, config: TextConfig, classes: int) -> None:
    """One epoch."""
    device = choose_device()

    def batch(items: list[tuple[str, str, int]]) -> tuple[Tensor, Tensor, Tensor]:
        tokens = [
            torch.tensor(vocabulary.tokenizer(a, b, truncation=True, max_length=config.max_tokens)["input_ids"])
            for a, b, _ in items
        ]
        lengths = torch.tensor([len(ids) for ids in tokens])
        return pad_sequence(tokens, batch_first=True), lengths, torch.tensor([label for *_, label in items])

    network = Ordinary(vocabulary.size, classes).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for tokens, lengths, labels in DataLoader(rows, config.batch_size, shuffle=True, collate_fn=batch):  # type: ignore[arg-type]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(tokens.to(device), lengths), labels.to(device)).backward()
        optimizer.step()


@click.command()
@click.option("--count", default=3000, help="products to train on")
def main(count: int) -> None:
    """Print both times and their ratio."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the loader's own process
    config = TextConfig(epochs=1)
    made = make_products(count + count // 8, 0, seed=0)
    titles = [product.text.designation for product in made]
    descriptions = [product.text.description for product in made]
    codes = sorted({product.code for product in made})
    labels = class_index([product.code for product in made], codes)
    sides = np.where(np.arange(len(made)) < count, TRAIN, VALIDATION_A).astype(np.uint8)
    vocabulary = Vocabulary.fit(lambda: zip(titles[:count], descriptions[:count], strict=True), config)
    rows = list(zip(titles, descriptions, labels.tolist(), strict=True))[:count]
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "text"
        keys = {"row": np.arange(len(made)), "label": labels, "side": sides}
        write_shard(shard, keys | vocabulary.encode(titles, descriptions))

        def ours(epochs: int) -> float:
            told = replace(config, epochs=epochs)
            return seconds(lambda: train_text_branch([shard], vocabulary, codes, told, 0, choose_device()))

        ours(1)  # warms up
        mine = (ours(1 + ADDED) - ours(1)) / ADDED
    theirs = min(seconds(lambda: ordinary(rows, vocabulary, config, len(codes))) for _ in range(2))
    click.echo(f"{count} products, an epoch on {choose_device()}")
    click.echo(f"ordinary loop {theirs:.1f} s, ours {mine:.1f} s with its pooling and its look at {count // 8} more")
    click.echo(f"ratio {theirs / mine:.1f}")


if __name__ == "__main__":
    main()
