"""The recipe behind the shipped models, one module per stage; `runner.builtin.make` runs them in order."""
