"""Flyte-free: finding, checking and storing a catalogue in the challenge's layout, and keeping its sides."""
