"""Last stage of a training: print the table, write the JSON report and the folder of Decks."""

from __future__ import annotations

import json
import sys

from rich.console import Console

from rakuten_tasks.evaluation.metrics import Evaluation
from rakuten_tasks.registry import runs, tracking
from rakuten_tasks.reports.console_tables import evaluation_table
from rakuten_tasks.reports.index import DECKS, page_order, write_pages
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.addresses import write_file
from rakuten_tasks.tasks.types import Catalogue, EvaluationFiles, RegisteredVersion, Source

WIDTH = 110  # characters; narrower than the table in a log otherwise


@stage(pods.SMALL)
def report_training(
    source: Source, catalogue: Catalogue, evaluated: EvaluationFiles, registered: RegisteredVersion, report: str
) -> RegisteredVersion:
    """Print the result. report: path or fsspec address of the JSON, with the pages in decks/ beside it; or empty."""
    evaluation = Evaluation.load(local(evaluated.evaluation))
    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, emoji=False)
    kind = "SYNTHETIC sample" if catalogue.synthetic else source.address
    console.print(evaluation_table(evaluation, title=f"{kind}: test rows, with 95 % bootstrap intervals"))
    console.print(
        f"registered {registered.model} version {registered.version}, alias {registered.alias}: "
        f"{registered.reason}\nMLflow run {registered.run_id} in {tracking.tracking_uri()}; `make mlflow` shows it"
    )
    if report:
        content = {
            "model": registered.model,
            "version": registered.version,
            "alias": registered.alias,
            "reason": registered.reason,
            "mlflow_run": registered.run_id,
            "tracking_uri": tracking.tracking_uri(),
            "source": source.address,
            "catalogue_hash": catalogue.content_hash,
            "synthetic": catalogue.synthetic,
            "ingest": json.loads(local(catalogue.summary).read_text()),
            "evaluation": evaluation.to_dict(),
        }
        write_file(report, json.dumps(content, indent=1))
        folder = f"{report.rpartition('/')[0] or '.'}/decks"
        pages = sorted(runs.fetch(registered.run_id, DECKS).glob("*.html"), key=lambda page: page_order(page.stem))
        properties = {
            "registered": f"{registered.model} version {registered.version}, {registered.alias}",
            "gate": registered.reason,
            "catalogue": source.address,
            "run": registered.run_id,
        }
        index = write_pages(folder, {page.stem: page.read_text(encoding="utf-8") for page in pages}, properties)
        console.print(f"written to {report}, pages to {index}; `make deck` opens them")
    runs.finish_parent(registered.run_id)
    return registered
