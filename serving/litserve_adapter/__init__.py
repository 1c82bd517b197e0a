"""All that touches LitServe's internals."""
