"""Text cleaning, n-grams, photo decoding, feature shards: used by data, models and monitoring. Flyte-free."""
