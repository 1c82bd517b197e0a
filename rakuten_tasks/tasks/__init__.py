"""The Flyte tasks, one stage a module: start_run, ingest_catalogue, assign_splits, train_members, ..."""
