"""Stage 2: every title gets a side, for ever."""

from __future__ import annotations

import pandas as pd
from flytekit.types.file import FlyteFile

from rakuten_tasks import pods
from rakuten_tasks.artifacts import KeyedFile, Run, Shard, local, workspace
from rakuten_tasks.catalogue.ingest import read_shard
from rakuten_tasks.catalogue.ledger import SIDES, Ledger, require_every_side
from rakuten_tasks.classifier.bundle import LEDGER
from rakuten_tasks.config import SplitConfig
from rakuten_tasks.registry import runs
from rakuten_tasks.stage import stage


@stage(pods.CPU, cached=True)
def split(shards: list[Shard], known: FlyteFile, config: SplitConfig, run: Run) -> KeyedFile:
    """Extend the known ledger by the titles that it has not seen. Parquet."""
    with runs.child_run(run.run_id, "split") as log:
        rows = pd.concat([read_shard(local(s.products), ["designation", "prdtypecode"]) for s in shards])
        before = Ledger.load(local(known))
        titles, codes = rows["designation"].tolist(), rows["prdtypecode"].tolist()
        ledger = before.extended(titles, codes, config)
        sides = ledger.sides(titles)
        require_every_side(sides, codes)
        log.metrics({f"rows_{name}": int((sides == side).sum()) for side, name in enumerate(SIDES)})
        log.metrics({"titles_known_before": len(before), "titles": len(ledger)})
    path = workspace() / LEDGER
    ledger.save(path)
    return FlyteFile(str(path))
