from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data import read_catalogue
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.tasks.ingest_catalogue import _ingest
from rakuten_tasks.tasks.start_run import stat_source
from tests.support.catalogues import write_catalogue


def test_a_catalogue_larger_than_the_disk_is_refused_before_it_is_read(tmp_path, monkeypatch):
    source = stat_source(str(write_catalogue(tmp_path / "catalogue")))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=source.size - 1))
    monkeypatch.setattr(read_catalogue, "ingest", lambda *arguments, **options: pytest.fail("the catalogue was read"))
    message = r"copies of .*catalogue take 0\.0 GB, and the disk of .* has 0\.0 GB free: free more"
    with pytest.raises(CatalogueError, match=message):
        _ingest(source, IngestConfig(), labelled=True, log=None)
