"""Time and memory of a pretrained text encoder on texts as long as the challenge's.

python -m benchmarks.vectors                    (--products 84916: the size of the challenge)
Synthetic texts, read shard by shard like the map task: titles of 70 characters on average; two thirds of the products
have descriptions, of 800 on average. Half as many products are measured too, each size in its own process: if memory
does not grow with the products, both peaks are about equal.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import click
import torch

from rakuten_tasks.config import IngestConfig, TextConfig
from rakuten_tasks.console.options import Number
from rakuten_tasks.data.sample.texts import class_names, write_text
from rakuten_tasks.models.encoders import load_encoder, resolve_encoder
from rakuten_tasks.models.extractors import VectorExtractor
from rakuten_tasks.preprocessing.feature_shards import write_shard
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.preprocessing.text import clean
from rakuten_tasks.training.hardware import choose_device

CHALLENGE, TARGET = 84_916, 15  # products, minutes on 2 cores
SHARD = IngestConfig().rows_per_shard
TITLES, DESCRIPTIONS = (40, 100), (400, 1200)  # characters, uniform between these
DESCRIBED = 2 / 3


def make_texts(products: int, seed: int = 0) -> Iterator[Product]:
    """Generate titles and descriptions from the sample's grammar, repeated up to the sampled length."""
    random, codes = Random(seed), list(class_names())
    for _ in range(products):
        code = random.choice(codes)
        title = _write(code, random, TITLES, "designation")
        described = random.random() < DESCRIBED
        yield Product(title, _write(code, random, DESCRIPTIONS, "description") if described else "")


def _write(code: int, random: Random, lengths: tuple[int, int], part: str) -> str:
    length, text = random.randint(*lengths), ""
    while len(text) < length:
        text = f"{text} {clean(getattr(write_text(code, random), part))}".lstrip()
    return text[:length]


def measure(encoder: str, products: int) -> dict[str, float]:
    """Measure the map task's work. -> seconds, characters a product, peak memory in MB"""
    extractor = VectorExtractor(load_encoder(TextConfig(encoder=encoder), choose_device()))
    generated = make_texts(products)
    seconds, characters = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, products, SHARD):
            shard = [next(generated) for _ in range(min(SHARD, products - start))]
            characters += sum(len(product.designation) + len(product.description) for product in shard)
            started = time.perf_counter()
            write_shard(Path(folder) / "vectors.safetensors", extractor.extract(shard))
            seconds += time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "characters": characters / products, "peak": peak / 1e6}


@click.command()
@click.option("--products", default=2 * SHARD, type=Number("PRODUCTS", 2, whole=True))
@click.option("--encoder", default="use-multilingual", help="as text.encoder")
@click.option("--one", is_flag=True, hidden=True, help="measure in this process")
def main(products: int, encoder: str, one: bool) -> None:
    """Print both sizes, and the minutes that the challenge's products would take."""
    if one:
        click.echo(json.dumps(measure(encoder, products)))
        return
    try:
        _, weights = resolve_encoder(TextConfig(encoder=encoder))
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{weights.name} on {choose_device()}, {torch.get_num_threads()} threads, shards of {SHARD} products")
    half, full = (_measure_in_new_process(encoder, size) for size in (products // 2, products))
    for size, result in ((products // 2, half), (products, full)):
        click.echo(
            f"{size:9,} products of {result['characters']:.0f} characters: {result['seconds']:7.1f} s, "
            f"{size / result['seconds']:7.1f} products/s, peak {result['peak']:.0f} MB"
        )
    minutes = full["seconds"] * CHALLENGE / products / 60
    click.echo(f"{CHALLENGE:9,} products, extrapolated: {minutes:.1f} minutes (target {TARGET} on 2 cores)")
    click.echo(f"memory: {full['peak'] / half['peak']:.2f} times for twice the products (target 1.0)")


def _measure_in_new_process(encoder: str, products: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.vectors", "--one", "--encoder", encoder, "--products", str(products)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"{products} products: it failed, see above")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
