"""The prediction log, drift tests and the drift decision. Flyte-free."""
