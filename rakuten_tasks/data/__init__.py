"""Reading, checking, splitting, storing and publishing a catalogue in the challenge's layout. Flyte-free."""
