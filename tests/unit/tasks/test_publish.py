from __future__ import annotations

import json

from flytekit.types.file import FlyteFile

from rakuten_tasks.data.csv_files import read_labels
from rakuten_tasks.data.sample.generate import SAMPLE, sample_answers
from rakuten_tasks.tasks.publish import _find_answers, _load_ingested
from rakuten_tasks.tasks.types import Catalogue, Shard


def test_shards_of_a_source_in_a_store_are_not_downloaded(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"counts": {}, "class_counts": {}}))
    file = FlyteFile(str(tmp_path / "summary.json"))
    addresses = ["s3://no-such-bucket/a.text.parquet", "s3://no-such-bucket/a.photos.parquet"]
    shard = Shard(FlyteFile.from_source(addresses[0]), FlyteFile.from_source(addresses[1]), 1, "hash")
    result = _load_ingested(Catalogue("hash", [], {}, True, file, file, file), [shard], [shard])
    assert [[part.text, part.photos] for part in (*result.labelled, *result.unlabelled)] == [addresses, addresses]


def test_the_labels_of_the_sample_are_a_file_like_those_of_a_catalogue(tmp_path):
    answers = _find_answers(SAMPLE, tmp_path)
    assert answers is not None
    assert read_labels(*answers).to_dict() == sample_answers().to_dict()
