import subprocess
import sys

import pytest

OURS = ("catalogue", "classifier", "dashboard", "decks", "monitoring", "registry")


@pytest.mark.parametrize("package", [*(f"rakuten_tasks.{name}" for name in OURS), "serving"])
def test_no_module_of_these_packages_imports_flytekit(package):
    code = (
        f"import importlib, pkgutil, sys, {package} as package\n"
        "names = [found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(bool(names), 'flytekit' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


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
