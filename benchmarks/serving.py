"""Throughput and latency of the app on the products of a catalogue, as they are mixed there.

python -m benchmarks.serving [--source sample] [--config configs/sample.yaml] [--seconds 8] [--rounds 3] [--text-only]

It trains on the catalogue and sends the products that have no label, which no fit has seen. The app is compared with
the bare predictor and with a plain FastAPI endpoint, both without cascade, and with itself without cascade; on photos
alone also with VGG16 in int8, where the processor has it. Each round measures every system, so that other load slows
all of them; the best round of each counts. Then text only: the default text members, compared with the two that need no
pretrained encoder. No system keeps answers, so repeated products cost as much as new ones. Exits with 1 if a ratio
misses its limit.
"""

from __future__ import annotations

import argparse
import base64
import json
import operator
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load import LoadMetrics, bare, best, load_test
from benchmarks.server_process import Process
from benchmarks.serving_systems import MODEL, app, in_int8, plain_endpoint, train, without_cascade
from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.sample.generate import SAMPLE, write_sample
from rakuten_tasks.data.shards import read_products
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.models.scoring import products_of
from rakuten_tasks.preprocessing.product import Product
from tests.support.bundles import ENCODED, TEXTS, write_bundle

PRODUCTS, CLIENTS, BATCHES = 512, (1, 32), (1, 8, 32)
APP, WITHOUT, INT8, PLAIN, BARE = "app", "app without cascade", "app in int8", "plain endpoint", "bare predictor"
PHOTOS = "photos alone: "
Key = tuple[str, int]  # system, and clients or batch
# Size of the text-only bundles: that of the challenge's 85,000 products and 27 codes.
CODES, BITS, HIDDEN = 27, 18, (384, 256)
BEFORE = ("bag", "lstm")
RULES = {"at least": operator.ge, "at most": operator.le}
LIMITS = {
    "app / bare predictor": ("at least", 2.0),
    "app / plain endpoint": ("at least", 4.0),
    "p99, app / app without cascade": ("at most", 0.7),
    "photos alone, app / bare predictor": ("at least", 0.95),
    "photos alone, app in int8 / bare predictor": ("at least", 1.8),
    "ms over 1.15 times the bare predictor's p50, 1 client": ("at most", 5.0),
    "idle CPU, share of one core": ("at most", 0.05),
    "text only, p50, default members / bag and lstm": ("at most", 2.0),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", default=SAMPLE, help="folder or address of a catalogue in the challenge's layout")
    parser.add_argument("--config", default="configs/sample.yaml")
    parser.add_argument("--bundle", type=Path, help="trained on the source before; by default it is trained now")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--idle-seconds", type=float, default=60)  # a minute, for the work done once a minute
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text-only", action="store_true", help="do not measure products of a catalogue")
    options = parser.parse_args()
    ratios = {} if options.text_only else mixed_products(options)
    ratios |= text_only(options)
    for name, value in ratios.items():
        print(f"{name}: {value:.3f} (limit: {LIMITS[name][0]} {LIMITS[name][1]:g})")
    missed = [name for name, value in ratios.items() if not RULES[LIMITS[name][0]](value, LIMITS[name][1])]
    print("; ".join(f"{name} {value:.2f}" for name, value in ratios.items()), "- missed:", ", ".join(missed) or "none")
    sys.exit(bool(missed))


def mixed_products(options: argparse.Namespace) -> dict[str, float]:
    """Measure every system on the catalogue's products, and on those with a photo without their text."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        folder, source = Path(name), options.source
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow/mlflow.db"
        if source == SAMPLE:
            source = str(folder / SAMPLE)
            write_sample(folder / SAMPLE)
        mixed = read_unlabelled(source, folder / "catalogue")
        photos = [Product(photo=product.photo) for product in mixed if product.photo]
        bundle = options.bundle or train(source, options.config, folder / "training")
        complete = without_cascade(bundle, folder / "complete")
        running = {
            APP: servers.enter_context(app(folder / "app", bundle)),
            WITHOUT: servers.enter_context(app(folder / "without", complete, f"{MODEL}-complete")),
            PLAIN: servers.enter_context(plain_endpoint(complete)),
        }
        alone = {APP: running[APP]}
        if quantised := in_int8(bundle, folder / "quantised", photos):
            alone[INT8] = running[INT8] = servers.enter_context(app(folder / "int8", quantised, f"{MODEL}-int8"))
        time.sleep(5)  # until the start-up is complete
        idle = running[APP].cpu(options.idle_seconds)
        predictor, seconds = Predictor.load(complete), options.seconds
        mixed_systems = {name: server for name, server in running.items() if name != INT8}
        work = make_work(predictor, mixed_systems, mixed, CLIENTS, seconds)
        of_photos = make_work(predictor, alone, photos, CLIENTS[-1:], seconds)
        work |= {(PHOTOS + system, n): measure for (system, n), measure in of_photos.items()}
        results = measure_best(work, options.rounds)
        memory = {name: server.memory() for name, server in running.items()}
    texts, with_photo = np.mean([product.has_text for product in mixed]), len(photos) / len(mixed)
    title = f"{options.source}: {len(mixed)} products, {texts:.0%} with text, {with_photo:.0%} with a photo"
    show(results, memory, title, options)
    return catalogue_ratios(results, idle)


def make_work(
    predictor: Predictor,
    servers: Mapping[str, Process],
    products: Sequence[Product],
    clients: Sequence[int],
    seconds: float,
) -> dict[Key, Callable[[], LoadMetrics]]:
    """Make the measurements of the bare predictor, by batch, and of the servers, by clients."""
    bodies = [to_body(product) for product in products]
    work: dict[Key, Callable[[], LoadMetrics]] = {
        (BARE, n): partial(bare, predictor, products, n, seconds) for n in BATCHES
    }
    return work | {
        (name, n): partial(load_test, server, bodies, n, seconds) for n in clients for name, server in servers.items()
    }


def measure_best(work: Mapping[Key, Callable[[], LoadMetrics]], rounds: int) -> dict[Key, LoadMetrics]:
    """Measure everything in each round, and return the best of each."""
    measured: dict[Key, list[LoadMetrics]] = {key: [] for key in work}
    for _ in range(rounds):
        for key, measure in work.items():
            measured[key].append(measure())
    return {key: best(results) for key, results in measured.items()}


def catalogue_ratios(results: dict[Key, LoadMetrics], idle: float) -> dict[str, float]:
    """Compute the ratios of LIMITS but the last. idle: share of a core."""
    one, many = min(CLIENTS), max(CLIENTS)
    rates = {prefix: max(results[prefix + BARE, n].rate for n in BATCHES) for prefix in ("", PHOTOS)}
    quantised = results.get((PHOTOS + INT8, many))
    int8 = {"photos alone, app in int8 / bare predictor": quantised.rate / rates[PHOTOS]} if quantised else {}
    return int8 | {
        "app / bare predictor": results[APP, many].rate / rates[""],
        "app / plain endpoint": results[APP, many].rate / results[PLAIN, many].rate,
        "p99, app / app without cascade": results[APP, many].p99 / results[WITHOUT, many].p99,
        "photos alone, app / bare predictor": results[PHOTOS + APP, many].rate / rates[PHOTOS],
        "ms over 1.15 times the bare predictor's p50, 1 client": results[APP, one].p50 - 1.15 * results[BARE, one].p50,
        "idle CPU, share of one core": idle,
    }


def read_unlabelled(source: str, folder: Path) -> list[Product]:
    """Read products of the catalogue without a label, in random order."""
    shards = ingest(source, folder, IngestConfig(), labelled=False).unlabelled
    products = [product for shard in shards for product in products_of(read_products(shard))]
    order = np.random.default_rng(0).permutation(len(products))[:PRODUCTS]
    return [products[i] for i in order]


def to_body(product: Product) -> bytes:
    """Encode a product as a request."""
    image = {"image": base64.b64encode(product.photo).decode()} if product.photo else {}
    return json.dumps({"designation": product.designation, "description": product.description, **image}).encode()


def make_texts(number: int = 32) -> list[Product]:
    """Generate texts: a third without description, as in the challenge; the others with about 400 characters."""
    sentences = [f"{title}. {description}." for title, description in TEXTS]
    return [
        Product(f"{TEXTS[i % 4][0]} n° {i}", "" if i % 3 == 0 else " ".join(sentences[(i + j) % 4] for j in range(8)))
        for i in range(number)
    ]


def text_only(options: argparse.Namespace) -> dict[str, float]:
    """Measure the p50 of `POST /predict` with text only and one client, for the default text members and for BEFORE."""
    bodies = [to_body(product) for product in make_texts()]
    names = {code: str(code) for code in range(CODES)}
    measured: dict[tuple[str, ...], list[LoadMetrics]] = {ENCODED: [], BEFORE: []}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow/mlflow.db"
        running = {}
        for members in measured:
            name = "-".join(members)
            own = Path(folder) / name
            bundle = write_bundle(own / "bundle", names=names, members=members, bits=BITS, hidden=HIDDEN)
            running[members] = servers.enter_context(app(own, bundle, name))
            load_test(running[members], bodies, 1, 1)  # warm-up
        for _ in range(options.rounds):
            for members, server in running.items():
                measured[members].append(load_test(server, bodies, 1, options.seconds))
    p50 = {members: min(round_.p50 for round_ in rounds) for members, rounds in measured.items()}
    for members, milliseconds in p50.items():
        print(f"text only, {', '.join(members)}: p50 {milliseconds:.1f} ms")
    return {"text only, p50, default members / bag and lstm": p50[ENCODED] / p50[BEFORE]}


def show(results: dict[Key, LoadMetrics], memory: dict[str, float], title: str, options: argparse.Namespace) -> None:
    """Print the table."""
    cores = len(os.sched_getaffinity(0))
    title += f"; {cores} cores; best of {options.rounds} rounds of {options.seconds:g} s"
    table = Table("", "clients or batch", "products/s", "p50 ms", "p99 ms", "CPU ms each", "MB", title=title)
    for (name, n), f in results.items():
        figures = [f"{f.rate:.2f}", f"{f.p50:.0f}", f"{f.p99:.0f}", f"{f.cpu:.0f}"]
        table.add_row(name, str(n), *figures, f"{memory[name]:.0f}" if name in memory else "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
