"""The Flyte tasks, one module a stage: start_run, ingest_catalogue, assign_splits, train_members, ..."""
