import os
import subprocess
import sys

import pytest

from rakuten_tasks.console.terminal import to_ascii
from rakuten_tasks.models.bundle import MANIFEST

PRINT = """
from rakuten_tasks.console.terminal import prepare_streams
prepare_streams()
import sys
import click
from rich.console import Console
from rich.panel import Panel
print("été ▁▄█ – “5 €” … 日本 \\udc80")
Console(width=30).print(Panel("café ▂▇"))
click.echo("œuf")
click.ClickException("l'œuf").show()
"""


def printed(encoding: str) -> tuple[bytes, bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, check=True)
    return done.stdout, done.stderr


def test_what_an_encoding_lacks_is_ascii():
    assert to_ascii("été ▁▂▃▄▅▆▇█ – “5 €” … cœur e\u0301 日") == 'ete _.:-=+*# - "5 EUR" . coeur e ?'


@pytest.mark.parametrize(
    ("encoding", "letter", "egg"),
    [("ascii", b"e", b"oeuf"), ("latin-1", b"\xe9", b"oeuf"), ("iso8859-15:strict", b"\xe9", b"\xbduf")],
)
def test_everything_can_be_printed_in_a_narrow_encoding(encoding, letter, egg):
    stdout, stderr = printed(encoding)
    *panel, last = stdout.splitlines()
    first, *panel = panel
    assert first.startswith(letter + b"t" + letter + b" _-# - ")
    assert first.endswith(b" ?? ?")
    assert panel[0] == b"+" + b"-" * 28 + b"+"
    assert b"caf" + letter + b" .*" in panel[1]
    assert last == egg
    assert stderr == b"Error: l'" + egg + b"\n"


def test_utf_8_stays_as_it_is():
    stdout, stderr = printed("utf-8")
    assert stdout.decode().splitlines()[0] == "été ▁▄█ – “5 €” … 日本 ?"
    assert stderr.decode() == "Error: l'œuf\n"


def test_a_bundle_is_read_where_the_locale_is_not_utf_8(tmp_path):
    (tmp_path / MANIFEST).write_text('{"schema_version": -1, "names": {"10": "Été"}}', encoding="utf-8")
    script = (
        "import sys; from pathlib import Path; from rakuten_tasks.models.bundle import read_manifest; "
        "read_manifest(Path(sys.argv[1]))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", script, tmp_path], env=environment, capture_output=True, text=True)
    assert "has schema version -1" in done.stderr
