"""Metrics, the prediction log, rejected requests."""
