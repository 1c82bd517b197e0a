"""What a process must not import at run time; which package may import which is checked by `lint-imports`."""

import subprocess
import sys


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
