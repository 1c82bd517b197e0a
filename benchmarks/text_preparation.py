"""What text preparation costs: cleaning, tokens and n-grams together, against the tokenizer alone.

    python benchmarks/text_preparation.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import click
import numpy as np

from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.config import TextConfig

LIMIT = 3.0
ROUNDS = 5


def products(count: int, seed: int) -> list[tuple[str, str]]:
    """Made-up products: words by Zipf's law, 35 % without description, half of the descriptions with HTML."""
    random = np.random.default_rng(seed)
    letters = np.array(list("eeeaaiissnnrrttoolluudcmpévqfbghàjxyèêzw"))
    words = ["".join(random.choice(letters, random.integers(2, 12))) for _ in range(30_000)]

    def text(low: int, high: int) -> str:
        ranks = random.zipf(1.3, random.integers(low, high)) % len(words)
        return " ".join(words[rank] for rank in ranks)

    def description() -> str:
        if random.random() < 0.35:
            return ""
        body = text(20, 180)
        return f"<p>{body}&amp;nbsp;:</p><br/>{text(5, 40)}" if random.random() < 0.5 else body

    return [(text(4, 18), description()) for _ in range(count)]


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of ROUNDS."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


@click.command()
@click.option("--count", default=2000, help="products")
def main(count: int) -> None:
    """Print both times and their ratio, with its limit. Exits with 1 above the limit."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core for both
    catalogue = products(count, seed=0)
    vocabulary = Vocabulary.fit(lambda: catalogue, TextConfig())
    titles, descriptions = (list(column) for column in zip(*catalogue, strict=True))
    alone = fastest(lambda: vocabulary.tokenizer(titles, descriptions))
    together = fastest(lambda: vocabulary.encode(titles, descriptions))
    click.echo(f"tokenizer alone                {count / alone:8,.0f} products/s")
    click.echo(f"cleaning, tokens and n-grams   {count / together:8,.0f} products/s")
    click.echo(f"ratio {together / alone:.2f} (limit {LIMIT})")
    if together > LIMIT * alone:
        raise click.ClickException(f"text preparation takes over {LIMIT} times the tokenizer alone")


if __name__ == "__main__":
    main()
