"""A Flyte cluster's work, done here: packaged tasks run as their pods would, one process each."""
