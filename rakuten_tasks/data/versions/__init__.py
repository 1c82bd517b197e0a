"""Published catalogues: immutable versions, each one manifest and its shards."""
