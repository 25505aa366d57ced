"""The one path: an accepted plan becomes a finished run, whether it is new or half done.

`folders` finds the run's place and keeps its manifest; `loop` takes each step, leases the device, calls one
worker, stores bytes and commits one line per item. Nothing else in the house calls a worker.
"""

from runner.execute.folders import Accepted, accept
from runner.execute.loop import Result, Watch, execute

__all__ = ["Accepted", "Result", "Watch", "accept", "execute"]
