"""Throughput and latency of the app, compared with the bare predictor and a plain FastAPI endpoint on the same bundle.

python -m benchmarks.serving [--seconds 8] [--rounds 3] [--text-only]

VGG16 at 224 pixels with random weights, which do not change the speed. Each round measures every system, so that other
load slows all of them; the best round of each counts. Then text only: the default text members, compared with the two
that need no pretrained encoder, each in an app of its own.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.server_process import Process, free_port
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.product import Product
from tests.support.bundles import ENCODED, TEXTS, register, write_bundle

SIDE, PRODUCTS, CLIENTS, BATCHES = 224, 32, (1, 8, 32), (1, 8, 16, 32)
MODEL = "benchmark"
# Size of the text-only bundles: that of the challenge's 85,000 products and 27 codes.
CODES, BITS, HIDDEN = 27, 18, (384, 256)
BEFORE = ("bag", "lstm")
TEXT_TARGET = 2.0  # times the p50 of BEFORE
TARGETS = {
    "app / bare predictor's best, 32 clients": ("at least", 0.85),
    "app / plain endpoint, 32 clients": ("at least", 2.0),
    "app's p99 / plain endpoint's, 32 clients": ("under", 1.0),
    "ms over 1.15 times the bare predictor's p50, 1 client": ("at most", 5.0),
    "idle CPU, share of one core": ("under", 0.05),
}


@dataclass(frozen=True)
class LoadMetrics:
    """Metrics of one system. rate: products per second. p50, p99: ms. cpu: processor ms a product, the least noisy."""

    rate: float
    p50: float
    p99: float
    cpu: float


def load_metrics(seconds: list[float], wall: float, cpu: float, products: int = 1) -> LoadMetrics:
    """Compute them from the seconds of each call of `products`, the wall-clock time and the processor time."""
    p50, p99 = np.percentile(seconds, (50, 99)) * 1000
    count = len(seconds) * products
    return LoadMetrics(count / wall, float(p50), float(p99), 1000 * cpu / count)


def best(rounds: list[LoadMetrics]) -> LoadMetrics:
    """Return the round with the highest rate."""
    return max(rounds, key=lambda round_: round_.rate)


def make_products() -> list[Product]:
    """Generate products with photos of 500 x 500 pixels, as in the challenge."""
    draw, made = np.random.default_rng(0), []
    for i in range(PRODUCTS):
        pixels = draw.integers(0, 256, (25, 25, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(pixels).resize((500, 500)).save(buffer, "JPEG", quality=85)
        title, description = TEXTS[i % len(TEXTS)]
        made.append(Product(title, f"{description} {i}", buffer.getvalue()))
    return made


def bare(predictor: Predictor, products: list[Product], batch: int, seconds: float) -> LoadMetrics:
    """Measure the predictor in a loop."""
    times: list[float] = []
    ends, at = time.perf_counter() + seconds, 0
    started, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < ends or not times:
        chosen = [products[(at + i) % PRODUCTS] for i in range(batch)]
        before = time.perf_counter()
        predictor.score(chosen)
        times.append(time.perf_counter() - before)
        at += batch
    return load_metrics(times, time.perf_counter() - started, time.process_time() - cpu, batch)


def load_test(server: Process, bodies: list[bytes], clients: int, seconds: float) -> LoadMetrics:
    """Measure `clients` with persistent connections, each with one request at a time."""
    times: list[float] = []
    ends = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        at = number
        while time.perf_counter() < ends:
            before = time.perf_counter()
            connection.request("POST", "/predict", bodies[at % PRODUCTS], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the server on port {server.port} answered {answer.status}")
            times.append(time.perf_counter() - before)
            at += clients
        connection.close()

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    started, cpu = time.perf_counter(), server.cpu_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load_metrics(times, time.perf_counter() - started, server.cpu_seconds() - cpu)


def app(folder: Path, bundle: Path) -> Process:
    """Start the app with its own store and var/."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow/mlflow.db"
    from rakuten_tasks.registry.tracking import connect

    register(connect(), MODEL, bundle)
    port = free_port()
    settings = {"RAKUTEN_VAR": str(folder), "SERVE_PORT": str(port), "MODEL": MODEL}
    return Process(["-m", "serving"], settings, "/ready", port)


def plain_endpoint(bundle: Path) -> Process:
    """Start the plain FastAPI endpoint."""
    port = free_port()
    return Process(["-m", "benchmarks.plain_endpoint", str(bundle), str(port)], {}, "/openapi.json", port)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text-only", action="store_true", help="do not measure photos")
    options = parser.parse_args()
    if not options.text_only:
        with_photos(options)
    text_only(options)


def with_photos(options: argparse.Namespace) -> None:
    """Measure app, bare predictor and plain endpoint on products with text and photo."""
    products = make_products()
    bodies = [
        json.dumps(
            {
                "designation": p.designation,
                "description": p.description,
                "image": base64.b64encode(p.photo or b"").decode(),
            }
        ).encode()
        for p in products
    ]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        bundle = write_bundle(Path(folder) / "bundle", image_size=SIDE)
        predictor = Predictor.load(bundle)
        running = {
            "app": servers.enter_context(app(Path(folder), bundle)),
            "plain endpoint": servers.enter_context(plain_endpoint(bundle)),
        }
        time.sleep(5)  # until the start-up is complete
        idle = running["app"].cpu(60)  # a minute, to include the work done once a minute
        work: dict[tuple[str, int], Callable[[], LoadMetrics]] = {
            ("bare predictor", n): lambda n=n: bare(predictor, products, n, options.seconds)  # type: ignore[misc]
            for n in BATCHES
        }
        for n in CLIENTS:
            for name, server in running.items():
                work[name, n] = lambda server=server, n=n: load_test(server, bodies, n, options.seconds)  # type: ignore[misc]
        measured: dict[tuple[str, int], list[LoadMetrics]] = {key: [] for key in work}
        for _ in range(options.rounds):
            for key, measure in work.items():
                measured[key].append(measure())
        memory = {name: server.memory() for name, server in running.items()}
    show({key: best(rounds) for key, rounds in measured.items()}, memory, idle, options)


def make_texts() -> list[Product]:
    """Generate texts: a third without description, as in the challenge; the others with about 400 characters."""
    sentences = [f"{title}. {description}." for title, description in TEXTS]
    return [
        Product(f"{TEXTS[i % 4][0]} n° {i}", "" if i % 3 == 0 else " ".join(sentences[(i + j) % 4] for j in range(8)))
        for i in range(PRODUCTS)
    ]


def text_only(options: argparse.Namespace) -> None:
    """Measure the p50 of `POST /predict` with text only and one client, for the default text members and for BEFORE."""
    bodies = [json.dumps({"designation": p.designation, "description": p.description}).encode() for p in make_texts()]
    names = {code: str(code) for code in range(CODES)}
    measured: dict[tuple[str, ...], list[LoadMetrics]] = {ENCODED: [], BEFORE: []}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        running = {}
        for members in measured:
            own = Path(folder) / "-".join(members)
            bundle = write_bundle(own / "bundle", names=names, members=members, bits=BITS, hidden=HIDDEN)
            running[members] = servers.enter_context(app(own, bundle))
            load_test(running[members], bodies, 1, 1)  # warm-up
        for _ in range(options.rounds):
            for members, server in running.items():
                measured[members].append(load_test(server, bodies, 1, options.seconds))
    p50 = {members: min(round_.p50 for round_ in rounds) for members, rounds in measured.items()}
    for members, milliseconds in p50.items():
        print(f"text only, {', '.join(members)}: p50 {milliseconds:.1f} ms")
    ratio = p50[ENCODED] / p50[BEFORE]
    print(
        f"text only, p50, default text members / {' and '.join(BEFORE)}: {ratio:.2f} (target: at most {TEXT_TARGET:g})"
    )


def show(
    results: dict[tuple[str, int], LoadMetrics], memory: dict[str, float], idle: float, options: argparse.Namespace
) -> None:
    """Print the table, and the ratios with their targets."""
    cores = len(os.sched_getaffinity(0))
    title = f"VGG16 at {SIDE} pixels, {cores} cores; best of {options.rounds} rounds of {options.seconds:g} s"
    table = Table("", "clients or batch", "products/s", "p50 ms", "p99 ms", "CPU ms each", "MB", title=title)
    for (name, n), f in results.items():
        table.add_row(
            name,
            str(n),
            f"{f.rate:.2f}",
            f"{f.p50:.0f}",
            f"{f.p99:.0f}",
            f"{f.cpu:.0f}",
            f"{memory[name]:.0f}" if name in memory else "",
        )
    Console(width=100).print(table)
    many, one = max(CLIENTS), min(CLIENTS)
    best_bare = max(f.rate for (name, _), f in results.items() if name.startswith("bare"))
    bare_p50 = results["bare predictor", 1].p50
    app_many, plain_many = results["app", many], results["plain endpoint", many]
    values = [
        app_many.rate / best_bare,
        app_many.rate / plain_many.rate,
        app_many.p99 / plain_many.p99,
        results["app", one].p50 - 1.15 * bare_p50,
        idle,
    ]
    for (name, (rule, limit)), value in zip(TARGETS.items(), values, strict=True):
        print(f"{name}: {value:.3f} (target: {rule} {limit:g})")


if __name__ == "__main__":
    main()
