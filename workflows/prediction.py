"""Predict the classes of a catalogue's unlabelled products with the champion.

pyflyte run workflows/prediction.py predict_catalogue --source FOLDER --output FOLDER
"""

from __future__ import annotations

from functools import partial

from flytekit import map_task, workflow

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.runtime import pods
from rakuten_tasks.tasks.ingest_catalogue import ingest_without_run, prepare_ingestion
from rakuten_tasks.tasks.predict_products import Predictions, fetch_champion, predict_shard, write_submission


@workflow
def predict_catalogue(
    source: str = "sample", config: IngestConfig = IngestConfig(), model: str = "", output: str = ""
) -> Predictions:
    """Predict the products of X_test_update.csv with the champion and write the challenge's submission file.

    Args:
        source: folder of the catalogue in the challenge's layout, local or remote; "sample" for the built-in one.
        config: YAML or JSON of rakuten_tasks/config.py's IngestConfig.
        model: name of the registered model; empty for the one that fits the catalogue.
        output: folder or fsspec address for submission.csv and details.parquet; empty for none.
    """
    champion = fetch_champion(source=source, model=model)
    catalogue_source, ingest_config = prepare_ingestion(source=source, config=config)
    _, _, unlabelled = ingest_without_run(source=catalogue_source, config=ingest_config, labelled=False)
    predict = map_task(partial(predict_shard, champion=champion), concurrency=pods.CONCURRENCY)
    return write_submission(parts=predict(shard=unlabelled), champion=champion, source=source, output=output)
