"""Flyte-free: what serving notes of every request, and how it is read back."""
