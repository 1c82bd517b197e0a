"""Flyte-free: MLflow runs, registered versions, the gate, promotion and rollback."""
