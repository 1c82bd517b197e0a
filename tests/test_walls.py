import subprocess
import sys

import pytest

FLYTE_FREE = [
    "rakuten_tasks.classifier.predictor",
    "rakuten_tasks.classifier.lstm",
    "rakuten_tasks.classifier.photo_training",
    "rakuten_tasks.catalogue.ingest",
    "rakuten_tasks.catalogue.sample",
    "rakuten_tasks.catalogue.publication",
    "rakuten_tasks.registry.champion",
    "rakuten_tasks.decks.ingest",
    "rakuten_tasks.decks.training",
    "rakuten_tasks.decks.fusion",
    "rakuten_tasks.decks.evaluation",
    "rakuten_tasks.decks.registration",
    "rakuten_tasks.decks.index",
    "rakuten_tasks.decks.publication",
    "rakuten_tasks.monitoring.traits",
    "rakuten_tasks.monitoring.prediction_log",
    "rakuten_tasks.monitoring.__main__",
    "rakuten_tasks.dashboard.__main__",
    "serving.app",
    "serving.answers",
    "serving.registry",
]


@pytest.mark.parametrize("package", ["rakuten_tasks.classifier", "rakuten_tasks.registry", "serving"])
def test_no_module_of_these_packages_imports_flytekit(package):
    code = (
        f"import importlib, pkgutil, sys, {package} as package\n"
        "names = [found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(len(names) > 5, 'flytekit' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("module", FLYTE_FREE)
def test_importing_the_classifier_does_not_import_flytekit(module):
    code = f"import sys, {module}; print('flytekit' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_predictor_does_not_import_mlflow():
    code = "import sys, rakuten_tasks.classifier.predictor; print('mlflow' in sys.modules)"
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
