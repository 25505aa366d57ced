"""`inspect` of a verdict: its chain from the image to the advice, every link checked, and the runs that hold it.

A link answers yes, no, or UNKNOWN with what was found. What follows from something else is made again: the request
from the manifest, findings and scores from the raw reply, the advice from those. It changes nothing and asks no
critic. What it does not know: whether the critic was right.
"""

from runner.verbs.verdict.chain import inspect
from runner.verbs.verdict.lines import on_image
from runner.verbs.verdict.words import text

__all__ = ["inspect", "on_image", "text"]
