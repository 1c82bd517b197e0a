"""Records and files of a prediction log."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from rakuten_tasks.monitoring.columns import PREDICTION


def log_record(number: int, time: datetime, kind: str = PREDICTION, /, **more: object) -> dict:
    return {"time": time.isoformat(), "kind": kind, "request_id": f"{number:032x}", **more}


def write_segment(folder: Path, hour: datetime, records: list[dict], writer: str = "w") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hour:%Y-%m-%dT%H}.{writer}.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path
