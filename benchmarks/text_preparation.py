"""Time of text preparation: cleaning, tokens and n-grams together, compared with the tokenizer alone.

python -m benchmarks.text_preparation
For the pretrained encoder's vectors see benchmarks/vectors.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import click

from rakuten_tasks.config import BagConfig, LSTMConfig
from rakuten_tasks.data.sample.generate import make_products
from rakuten_tasks.models.extractors import NgramExtractor
from rakuten_tasks.models.members.plan import fit_tokenizer
from rakuten_tasks.preprocessing.product import Product

LIMIT = 3.0
ROUNDS = 5


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of ROUNDS."""
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
    texts = [(made.text.designation, made.text.description) for made in make_products(count, 0, seed=0)]
    products = [Product(*pair) for pair in texts]
    words = fit_tokenizer(lambda: texts, LSTMConfig().vocabulary_size, LSTMConfig().max_tokens)
    ngrams = NgramExtractor(BagConfig().ngram_bits)
    titles, descriptions = (list(column) for column in zip(*texts, strict=True))
    alone = fastest(lambda: words.tokenizer(titles, descriptions))
    together = fastest(lambda: (words.extract(products), ngrams.extract(products)))
    click.echo(f"tokenizer alone                {count / alone:8,.0f} products/s")
    click.echo(f"cleaning, tokens and n-grams   {count / together:8,.0f} products/s")
    click.echo(f"ratio {together / alone:.2f} (limit {LIMIT})")
    if together > LIMIT * alone:
        raise click.ClickException(f"text preparation takes over {LIMIT} times the tokenizer alone")


if __name__ == "__main__":
    main()
