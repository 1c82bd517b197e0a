"""HTTP: middleware, request parsing, errors, API docs."""
