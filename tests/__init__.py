"""The same rooms again, as promises: `tests/` mirrors `runner/`."""
