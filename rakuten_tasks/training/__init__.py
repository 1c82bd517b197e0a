"""The training loop of networks, with checkpoints and several processes. Flyte-free."""
