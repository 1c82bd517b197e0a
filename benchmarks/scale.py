"""Memory, time, literals and files of every step on made-up catalogues of growing size.

python -m benchmarks.scale --rows 100000,1000000,10000000
Each step runs in a process of its own, as in its pod, with the pod's memory as limit. Ends with exit status 1 unless
memory, literals, files and time stay within the limits below.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
from flytekit import FlyteContextManager, LiteralType
from flytekit.core.type_engine import TypeEngine
from flytekit.types.file import FlyteFile
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import scale_products, scale_steps
from benchmarks.scale_steps import Bench, as_in_pod
from rakuten_tasks.data.shards import shard_rows
from rakuten_tasks.runtime import pods
from rakuten_tasks.tasks.types import FeatureShard, Shard

MEMORY, LITERAL, FILES = 1.10, 1_000_000, 2000  # memory: at a size, divided by that at the size before
STREAMED, BOUNDED = 1.1, 1.5  # seconds of steps that read all rows, for as many times the rows; of the others, in all
NOISE = (20e6, 2.0)  # bytes and seconds that are within the limits whatever they are
UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "M": 10**6, "G": 10**9, "T": 10**12}
ADDRESS = (
    "s3://my-s3-bucket/metadata/propeller/rakuten-production-f6bd84e1a2c3d4e5f607/n{0}/data/0/{1:032x}/{0:032x}/{2}"
)


@dataclass(frozen=True)
class Step:
    """A function of scale_steps or scale_products. pod: of pods.py, whose memory is the limit; empty: not measured.

    streams: whether it reads all rows. one_shard: measured on one, of as many rows as that size's shards have. member:
    without which it is left out.
    """

    name: str
    title: str
    pod: str = "CPU"
    streams: bool = False
    one_shard: bool = False
    member: str = ""


STEPS = (
    Step("labelled", "", ""),
    Step("unlabelled", "", ""),
    Step("resolve", "", ""),
    Step("csv", "", ""),
    Step("open_source", "open (fingerprint)", "SMALL", streams=True),
    Step("ingest", "ingest", streams=True),
    Step("split", "split", streams=True),
    Step("vocabulary", "vocabulary", streams=True),
    Step("ngrams", "n-grams, all shards", streams=True, member="bag"),
    Step("tokens", "tokens, all shards", streams=True),
    Step("one_shard", "tokens", streams=True, one_shard=True),
    Step("vectors", "encoder vectors", "GPU", streams=True, one_shard=True, member="encoder"),
    Step("made_up_vectors", "", "", member="encoder"),
    Step("photo_features", "", "", member="photo"),
    Step("bag", "member bag", "FIT", member="bag"),
    Step("lstm", "member lstm", "GPU", member="lstm"),
    Step("encoder", "member encoder", "FIT", member="encoder"),
    Step("photo", "member photo", "FIT", member="photo"),
    Step("pool", "pool", "FIT", streams=True),
    Step("baseline", "baseline", "FIT", streams=True),
    Step("evaluation", "evaluation", "GPU", streams=True),
    Step("bundle", "bundle"),
    Step("predict", "prediction", "GPU", streams=True, one_shard=True),
    Step("parts", "", ""),
    Step("publish", "publishing", streams=True),
    Step("publish_more", "publishing 1,000 more", streams=True),
    Step("submission", "submission", streams=True),
    Step("log", "", ""),
    Step("drift", "drift", streams=True),
)


@dataclass(frozen=True)
class Usage:
    """Cost of one step. memory: peak of anonymous memory in bytes; read, written: bytes; files: most of one kind."""

    seconds: float
    memory: int
    read: int
    written: int
    files: int


@click.command()
@click.option("--rows", default="100000,1000000,10000000", help="numbers of products, ascending, separated by commas")
@click.option("--members", default="bag,lstm,encoder,photo", help="members to fit; encoder needs its weights")
@click.option("--sample", type=int, default=5000, help="training rows of the sample; a quarter for each other split")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="for some 20 GB of files; the default is a temporary one"
)
def main(rows: str, members: str, sample: int, folder: Path | None) -> None:
    """Print a table for each size, the literals, and the verdict."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)+", rows) or sorted(sizes := [*map(int, rows.split(","))]) != sizes:
        raise click.BadParameter(f"{rows}: two or more numbers, ascending, separated by commas", param_hint="--rows")
    os.environ["TQDM_DISABLE"] = "1"
    console, problems = Console(width=120), []
    usages: dict[int, dict[Step, Usage]] = {}
    budget = {"training": sample, **dict.fromkeys(("validation", "blending", "test"), sample // 4)}
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            usages[size] = measure_size(Bench(Path(work), size, tuple(members.split(",")), budget))
        literal = literal_bytes(size)
        if literal > LITERAL:
            problems.append(f"literals of {literal} bytes at {size:,} products")
        console.print(usage_table(size, usages[size]), f"largest literals: {literal:,} bytes\n")
    problems += compare(usages)
    click.echo(
        f"NOT FLAT: {'; '.join(problems)}" if problems else "flat: memory, literals, files and time are in bounds"
    )
    sys.exit(1 if problems else 0)


def measure_size(bench: Bench) -> dict[Step, Usage]:
    """Run all steps at one size."""
    usages = {}
    for step in STEPS:
        if step.member and step.member not in bench.members:
            continue
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.scale_products"])
        with ProcessPoolExecutor(1, context) as process:
            usages[step] = process.submit(run, step, bench).result()
    return {step: usage for step, usage in usages.items() if step.pod}


def run(step: Step, bench: Bench) -> Usage:
    """Run and measure one step, in a new process that has done nothing else."""
    outputs = bench.folder / f"outputs-{step.name}"
    outputs.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(outputs)
    function = getattr(scale_steps, step.name, None) or getattr(scale_products, step.name)
    if step.pod:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit(step.pod), resource.RLIM_INFINITY))
    memory, stop, before = [anonymous()], threading.Event(), transferred()

    def sample() -> None:
        while not stop.wait(0.02):
            memory.append(anonymous())

    sampler, started = threading.Thread(target=sample), time.perf_counter()
    sampler.start()
    try:
        with as_in_pod(outputs):
            bench.store(step.name, function(bench))
        seconds, after = time.perf_counter() - started, transferred()
    finally:
        stop.set()
        sampler.join()
    kinds = Counter(path.suffix for path in outputs.rglob("*") if path.is_file())
    read, written = (new - old for new, old in zip(after, before, strict=True))
    return Usage(seconds, max(memory), read, written, max(kinds.values(), default=0))


def memory_limit(pod: str) -> int:
    """Return the memory of a pod in bytes."""
    number, unit = re.fullmatch(r"(\d+)(\D+)", getattr(pods, pod)["limits"].mem).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def anonymous() -> int:
    """Return the bytes of anonymous memory of this process: without pages of files, which the kernel can drop."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


def transferred() -> tuple[int, int]:
    """Return the bytes that this process has read from files and written."""
    values = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(values["rchar"]), int(values["wchar"])


def literal_bytes(rows: int) -> int:
    """Return the bytes of the inputs of a member's fit, which are the largest: shards of several kinds of features."""
    count, context = -(-rows // shard_rows(rows, 1000)), FlyteContextManager.current_context()

    def file(number: int, name: str) -> FlyteFile:
        return FlyteFile(ADDRESS.format(number % 100, number, name))

    shards = [
        Shard(file(n, f"labelled-{n:05d}.text.parquet"), file(n, f"labelled-{n:05d}.photos.parquet"), 1000, "0" * 64)
        for n in range(count)
    ]
    features = [[FeatureShard(file(n, "vectors.safetensors"), "0" * 64) for n in range(count)]] * 3
    total = 0
    for value, kind in ((shards, list[Shard]), (features, list[list[FeatureShard]])):
        expected: LiteralType = TypeEngine.to_literal_type(kind)
        total += len(TypeEngine.to_literal(context, value, kind, expected).to_flyte_idl().SerializeToString())
    return total


def usage_table(rows: int, usages: Mapping[Step, Usage]) -> Table:
    """Return a table with a row for each step."""
    table = Table(title=f"{rows:,} labelled and as many unlabelled products", box=box.SIMPLE_HEAD)
    for name in ("step", "s", "peak MB", "pod's MB", "read MB", "written MB", "files"):
        table.add_column(name, justify="left" if name == "step" else "right", no_wrap=True)
    shards = -(-rows // shard_rows(rows, 1000))
    for step, used in usages.items():
        total = f" (1 of {shards} shards: {used.seconds * shards:,.0f} s)" if step.one_shard else ""
        limit = memory_limit(step.pod)
        numbers = (used.memory / 1e6, limit / 1e6, used.read / 1e6, used.written / 1e6, used.files)
        table.add_row(step.title + total, f"{used.seconds:.1f}", *(f"{number:,.0f}" for number in numbers))
    return table


def compare(usages: Mapping[int, Mapping[Step, Usage]]) -> list[str]:
    """List what grows too much between the two largest sizes at which a step ran. usages: by size, ascending."""
    problems = []
    for step in STEPS:
        runs = [(rows, used[step]) for rows, used in usages.items() if step in used]
        if len(runs) < 2:
            continue
        (small, old), (large, new) = runs[-2:]
        seconds = old.seconds * (STREAMED * large / small if step.streams else BOUNDED) + NOISE[1]
        if new.memory > old.memory * MEMORY + NOISE[0]:
            problems.append(f"{step.title} {old.memory / 1e6:.0f} MB at {small:,}, {new.memory / 1e6:.0f} at {large:,}")
        if new.seconds > seconds:
            problems.append(f"{step.title} {old.seconds:.1f} s at {small:,}, {new.seconds:.1f} at {large:,}")
        if new.files > FILES:
            problems.append(f"{step.title} {new.files} files of a kind at {large:,}")
    return problems


if __name__ == "__main__":
    main()
