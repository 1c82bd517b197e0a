"""Metrics, bootstrap intervals and baselines. Flyte-free."""
