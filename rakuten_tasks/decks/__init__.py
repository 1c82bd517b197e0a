"""What a stage showed, as one self-contained page each. Knows nothing of Flyte."""
