"""The built-in synthetic catalogue."""
