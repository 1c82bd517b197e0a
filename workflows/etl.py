"""Read, check and publish a catalogue as the next immutable version, which trainings can use as their source.

pyflyte run workflows/etl.py publish_catalogue --source FOLDER --destination s3://BUCKET/catalogue
"""

from __future__ import annotations

from flytekit import workflow

from rakuten_tasks.config import Mode, PublicationConfig
from rakuten_tasks.tasks.ingest_catalogue import ingest_without_run, prepare_ingestion
from rakuten_tasks.tasks.publish import Publication, publish_version


@workflow
def publish_catalogue(
    destination: str,
    source: str = "sample",
    config: PublicationConfig = PublicationConfig(),
    mode: Mode = Mode.ADD,
) -> Publication:
    """Publish the next version of a catalogue, or nothing if it is invalid or unchanged.

    Args:
        destination: folder or fsspec address of the published catalogue; a source for all other workflows.
        source: folder of the catalogue in the challenge's layout, local or remote; "sample" for the built-in one.
        config: YAML or JSON of rakuten_tasks/config.py's PublicationConfig.
        mode: add the source's products to the current version's, or replace those.
    """
    catalogue_source, ingest_config = prepare_ingestion(source=source, config=config.ingest)
    catalogue, labelled, unlabelled = ingest_without_run(source=catalogue_source, config=ingest_config, labelled=True)
    return publish_version(
        source=catalogue_source,
        catalogue=catalogue,
        labelled=labelled,
        unlabelled=unlabelled,
        destination=destination,
        config=config,
        mode=mode,
    )
