"""One terminal page of all that runs. Flyte-free."""
