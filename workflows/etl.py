"""A catalogue is read, checked and published as the next version of one that trainings can rely on.

pyflyte run workflows/etl.py publish_catalogue --source FOLDER --destination s3://BUCKET/catalogue
"""

from __future__ import annotations

from flytekit import workflow

from rakuten_tasks.config import PublicationConfig
from rakuten_tasks.etl import Publication, publish_version
from rakuten_tasks.ingest import ingest_to_publish, look


@workflow
def publish_catalogue(
    destination: str,
    source: str = "sample",
    config: PublicationConfig = PublicationConfig(),
    add_to_current: bool = True,
) -> Publication:
    """Publish the next version of a catalogue, or nothing if it is broken or holds nothing new.

    Args:
        destination: folder or fsspec address of the published catalogue; a source for all other workflows.
        source: folder of the catalogue in the challenge's layout, local or remote; "sample" for the built-in one.
        config: YAML or JSON of rakuten_tasks/config.py's PublicationConfig.
        add_to_current: the version's products stay, and new ones join them; otherwise those of the source stand alone.
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
        add_to_current=add_to_current,
    )
