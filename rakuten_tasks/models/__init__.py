"""Everything that changes an answer, for training, evaluation, batch prediction and serving alike. Flyte-free."""
