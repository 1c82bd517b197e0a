"""The built-in synthetic catalogue."""

SAMPLE = "sample"  # its name in commands, in place of a folder
