"""Flyte-free: everything that changes an answer, for training, evaluation, batch prediction and serving alike."""
