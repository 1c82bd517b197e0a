"""The pipelines, each on one screen."""
