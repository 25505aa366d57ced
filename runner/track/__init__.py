"""The journal -> MLflow: one flat run per manifest, rebuilt from the truth at any time.

`Tracker` starts this room as a process of its own, so that MLflow's import and its store cost the run nothing and
its failure fails nothing. The pipe to it is both signals: a closed pipe means "project now", whether the run ended
or its process died, and so the MLflow run of a dead process is closed as well. Where both died, the next run's
tracking process has a reaper close it. It refuses to project a broken journal, and to wait for a store that does
not answer. What it does not know: anything that is not in the manifest, the journal or the store.
"""

from runner.track.numbers import metrics_of, params_of, table_of, tags_of
from runner.track.place import POINTER, read_pointer, store_uri
from runner.track.probe import unreachable
from runner.track.project import MLFLOW_STATUS, project
from runner.track.runs import left_behind, reap, rebuild, run_folders
from runner.track.tracker import Answer, Tracker

__all__ = [
    "MLFLOW_STATUS",
    "POINTER",
    "Answer",
    "Tracker",
    "left_behind",
    "metrics_of",
    "params_of",
    "project",
    "read_pointer",
    "reap",
    "rebuild",
    "run_folders",
    "store_uri",
    "table_of",
    "tags_of",
    "unreachable",
]
