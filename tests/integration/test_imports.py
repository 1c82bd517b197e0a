"""What a process must not import at run time; which package may import which is checked by `lint-imports`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rakuten_tasks.tasks

# Not flytekit, which imports pandas, nor MLflow's client, which imports scipy and fastapi.
HEAVY = {
    "torch", "torchvision", "transformers", "sklearn", "statsmodels", "evidently", "plotly", "kaleido",
    "mlflow", "mlflow.server", "flask", "sqlalchemy", "alembic",
}  # fmt: skip
CLIENT = {"mlflow"}
DECK = {*CLIENT, "plotly"}
NETWORK = {*DECK, "torch"}
# What each task's module may import at its start; a task imports the rest where it needs it.
MAY_IMPORT = {
    "assemble_bundle": DECK,
    "assign_splits": DECK,
    "assignments": set(),
    "check_drift": CLIENT,
    "evaluate_test_rows": NETWORK,
    "extract_features": {"torch"},
    "fit_baselines": {*CLIENT, "sklearn"},
    "fit_pool_weights": NETWORK,
    "ingest_catalogue": DECK,
    "on_failure": CLIENT,
    "predict_products": CLIENT,
    "publish": DECK,
    "register_version": NETWORK,
    "reproduce": CLIENT,
    "start_run": CLIENT,
    "train_members": NETWORK,
    "training_log": NETWORK,
    "types": set(),
    "write_report": DECK,
}
# Each module in a fork of its own, so that what all import is imported once.
IMPORT_EACH = """
import importlib, json, os, sys
heavy, modules = json.loads(sys.argv[1])
import rakuten_tasks.tasks.types
for module in modules:
    if os.fork() == 0:
        importlib.import_module(f"rakuten_tasks.tasks.{module}")
        print(json.dumps([module, [name for name in heavy if name in sys.modules]]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, module
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """Return the heavy libraries that each module imports."""
    arguments = json.dumps([sorted(HEAVY), list(MAY_IMPORT)])
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH, arguments], capture_output=True, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_every_module_of_tasks_is_in_the_table():
    folder = Path(rakuten_tasks.tasks.__path__[0])
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_a_task_imports_no_heavy_library_that_it_does_not_need(imported: dict[str, list[str]], module: str):
    assert set(imported[module]) == MAY_IMPORT[module]


def test_the_predictor_does_not_import_mlflow():
    code = "import sys, rakuten_tasks.models.predictor; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_api_process_imports_neither_torch_nor_mlflow():
    code = "import sys, serving.app; print({'torch', 'mlflow', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_evidently_is_imported_only_where_a_report_is_drawn():
    code = "import sys, rakuten_tasks.monitoring.__main__; print('evidently' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
