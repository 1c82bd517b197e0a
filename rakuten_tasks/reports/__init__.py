"""One self-contained HTML page for each stage, and the drift report. Flyte-free."""
