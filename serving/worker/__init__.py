"""The process that holds the model: loading, reloading, inference."""
