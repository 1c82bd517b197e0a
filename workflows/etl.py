"""A catalogue is read, checked and published as the next version of one that trainings can rely on.

pyflyte run workflows/etl.py publish_catalogue --source FOLDER --destination s3://BUCKET/catalogue
"""

from __future__ import annotations

from flytekit import workflow

from rakuten_tasks.config import Mode, PublicationConfig
from rakuten_tasks.tasks.ingest_catalogue import ingest_to_publish, look
from rakuten_tasks.tasks.publish import Publication, publish_version


@workflow
def publish_catalogue(
    destination: str,
    source: str = "sample",
    config: PublicationConfig = PublicationConfig(),
    mode: Mode = Mode.ADD,
) -> Publication:
    """Publish the next version of a catalogue, or nothing if it is broken or holds nothing new.

    Args:
        destination: folder or fsspec address of the published catalogue; a source for all other workflows.
        source: folder of the catalogue in the challenge's layout, local or remote; "sample" for the built-in one.
        config: YAML or JSON of rakuten_tasks/config.py's PublicationConfig.
        mode: add, and the products of the version before stay; replace, and those of the source stand alone.
    """
    found = look(source=source)
    catalogue, labelled, unlabelled = ingest_to_publish(source=found, config=config.ingest)
    return publish_version(
        source=found,
        catalogue=catalogue,
        labelled=labelled,
        unlabelled=unlabelled,
        destination=destination,
        config=config,
        mode=mode,
    )
