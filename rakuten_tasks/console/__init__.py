"""The command line: numbers of options, progress, and output for any terminal."""
