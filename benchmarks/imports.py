"""CPU seconds that a pod spends on imports, by the module of its task: `python -m benchmarks.imports`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

import rakuten_tasks.tasks

ENTRYPOINT = "flytekit.bin.entrypoint"  # what every pod starts with
LIBRARIES = ("mlflow", "plotly", "sklearn", "torch", "torchvision", "transformers", "sqlalchemy")
IMPORT = """
import json, resource, sys
import {module}
usage = resource.getrusage(resource.RUSAGE_SELF)
libraries = [name for name in {libraries} if name in sys.modules]
print(json.dumps([usage.ru_utime + usage.ru_stime, len(sys.modules), libraries]))
"""


def measure(module: str) -> tuple[float, int, list[str]]:
    """Import the module in a process of its own. -> CPU seconds, number of modules, large libraries among them"""
    code = IMPORT.format(module=module, libraries=LIBRARIES)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Print the table."""
    (folder,) = map(Path, rakuten_tasks.tasks.__path__)
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    modules = [ENTRYPOINT, *(f"{rakuten_tasks.tasks.__name__}.{name}" for name in names)]
    table = Table("module", "CPU seconds", "times flytekit's own", "modules", "large libraries")
    own = 0.0
    for module in modules:
        seconds, count, libraries = measure(module)
        own = own or seconds
        name = module.rpartition(".tasks.")[2]
        table.add_row(name, f"{seconds:.1f}", f"{seconds / own:.1f}", str(count), ", ".join(libraries))
    Console().print(table)


if __name__ == "__main__":
    main()
