"""The HTTP app: one API process and one worker that holds the champion. Flyte-free."""
