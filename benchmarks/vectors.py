"""Time and memory of a pretrained encoder's vectors, of products whose texts are as long as the challenge's.

python -m benchmarks.vectors                    (--products 84916 for as many as the challenge has)
Made-up texts, a shard after the other as the map task reads them: titles of 70 characters on average, descriptions of
two thirds of the products, 800 on average. Half as many products are measured too, each size in a process of its own:
the peaks differ by little if memory does not grow with the products.
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
from rakuten_tasks.data.sample.texts import class_names, write_text
from rakuten_tasks.models.encoders import load_encoder, resolve_encoder
from rakuten_tasks.models.extractors import VectorExtractor
from rakuten_tasks.preprocessing.feature_shards import write_shard
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.preprocessing.text import clean
from rakuten_tasks.training.loop import choose_device

CHALLENGE, WANTED = 84_916, 15  # products, minutes on 2 cores
SHARD = IngestConfig().rows_per_shard
TITLES, DESCRIPTIONS = (40, 100), (400, 1200)  # characters, from and to: each length as often as any other
DESCRIBED = 2 / 3


def make_texts(products: int, seed: int = 0) -> Iterator[Product]:
    """Titles and descriptions of the sample's grammar, put together until they are as long as wanted."""
    random, codes = Random(seed), list(class_names())
    for _ in range(products):
        code = random.choice(codes)
        title = _written(code, random, TITLES, "designation")
        described = random.random() < DESCRIBED
        yield Product(title, _written(code, random, DESCRIPTIONS, "description") if described else "")


def _written(code: int, random: Random, lengths: tuple[int, int], part: str) -> str:
    length, text = random.randint(*lengths), ""
    while len(text) < length:
        text = f"{text} {clean(getattr(write_text(code, random), part))}".lstrip()
    return text[:length]


def measure(encoder: str, products: int) -> dict[str, float]:
    """Seconds of the map task's work on so many products, and this process's peak in MB."""
    extractor = VectorExtractor(load_encoder(TextConfig(encoder=encoder), choose_device()))
    made = make_texts(products)
    spent, characters = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, products, SHARD):
            shard = [next(made) for _ in range(min(SHARD, products - start))]
            characters += sum(len(product.designation) + len(product.description) for product in shard)
            started = time.perf_counter()
            write_shard(Path(folder) / "vectors.safetensors", extractor.extract(shard))
            spent += time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": spent, "characters": characters / products, "peak": peak / 1e6}


@click.command()
@click.option("--products", default=2 * SHARD, type=click.IntRange(2))
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
    half, whole = (_in_its_own_process(encoder, size) for size in (products // 2, products))
    for size, found in ((products // 2, half), (products, whole)):
        click.echo(
            f"{size:9,} products of {found['characters']:.0f} characters: {found['seconds']:7.1f} s, "
            f"{size / found['seconds']:7.1f} products/s, peak {found['peak']:.0f} MB"
        )
    minutes = whole["seconds"] * CHALLENGE / products / 60
    click.echo(f"{CHALLENGE:9,} products by proportion: {minutes:.1f} minutes (wanted {WANTED} on 2 cores)")
    click.echo(f"memory: {whole['peak'] / half['peak']:.2f} times for twice the products (wanted 1.0)")


def _in_its_own_process(encoder: str, products: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.vectors", "--one", "--encoder", encoder, "--products", str(products)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"{products} products: it failed, as said above")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
