"""The verbs: what is true now, read from run folders and the store, with no GPU, no MLflow and no network.

`python -m runner VERB [--json]`: machine output on standard output, talk on standard error. They change
nothing. What they do not know: what is not in the journal, the manifest or the store.
"""

from runner.verbs.app import VERBS, call

__all__ = ["VERBS", "call"]
