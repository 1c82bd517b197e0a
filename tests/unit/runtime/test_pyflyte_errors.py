"""The function that runtime/pyflyte_errors.py replaces in flytekit, and what it prints."""

from pathlib import Path

import pytest

from rakuten_tasks.data.layout import find_layout
from rakuten_tasks.registry.model_names import require_model_name

pytestmark = pytest.mark.filterwarnings("ignore:The '__version__' attribute is deprecated")  # click's, in flytekit


def _caught(function, *arguments: object) -> Exception:
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


def test_pyflyte_prints_errors_by_the_function_that_is_replaced(monkeypatch: pytest.MonkeyPatch):
    from flytekit.clis.sdk_in_container import utils

    from rakuten_tasks.runtime import pyflyte_errors

    monkeypatch.setattr(utils, "pretty_print_exception", utils.pretty_print_exception)  # restored afterwards
    pyflyte_errors.install()
    assert "pretty_print_exception" in utils.ErrorHandlingCommand.invoke.__code__.co_names
    assert utils.pretty_print_exception is pyflyte_errors.print_error


def test_what_a_user_can_mend_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    from rakuten_tasks.runtime.pyflyte_errors import print_error

    for error in (_caught(find_layout, str(tmp_path)), _caught(require_model_name, "a/b")):
        message = str(error)
        error.args = (f"Error encountered while executing 'rakuten_tasks.tasks.x':\n  {message}",)  # as flytekit does
        print_error(error, 0)
        assert capsys.readouterr() == ("", f"Error: {message}\n")


def test_a_path_that_a_library_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    from rakuten_tasks.runtime.pyflyte_errors import print_error

    print_error(_caught((tmp_path / "none").read_bytes), 0)
    assert capsys.readouterr().err == f"Error: [Errno 2] No such file or directory: '{tmp_path}/none'\n"


@pytest.mark.parametrize("verbosity", [0, 1])
def test_everything_else_has_a_traceback(verbosity: int, tmp_path: Path, capsys: pytest.CaptureFixture):
    from rakuten_tasks.runtime.pyflyte_errors import print_error

    error = _caught(find_layout, str(tmp_path)) if verbosity else _caught(int, "x")
    print_error(error, verbosity)
    assert "Traceback (most recent call last)" in capsys.readouterr().out
