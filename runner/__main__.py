"""The door: a bare first word is a verb, otherwise Hydra composes a request that is refused or accepted whole.

It holds the table of workers, prints faults once, and turns every ending into its exit code.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner import STARTED_S
from runner.errors import Fault, Interrupted, Refused, RunnerError, choose
from runner.timing import Clock

HELP = """\
runner: declarative experiments with LoRA image generation

  python -m runner +experiment=NAME [key=value ...]     run, or resume
  python -m runner -m +experiment=NAME seed=1,2,3       sweep: all jobs are checked before the first starts
  python -m runner +experiment=NAME until=contract      faults, contract card and token table; nothing is written
  python -m runner status [RUN] [--follow]              what is true now
  python -m runner inspect THING                        a run, an image digest, a .safetensors file, a model folder
  python -m runner find [--prompt TEXT] [--min S=0.8]   images across runs, by what made them and by their scores
  python -m runner verify [RUN | --all] [--repair]      hash everything again; exit 4 on any difference
  python -m runner compare RUN RUN [--knob KEY]         a controlled comparison, or a refusal with the differences
  python -m runner critic diff RUN RUN                  the same images under two critics; calibrate RUN: against people
  python -m runner critic exam | plan [key=value ...]   examine a critic, or show what a run would start; lock, profiles
  python -m runner import PATH... --source TEXT         images from elsewhere, with where they come from
  python -m runner delete DIGEST... --reason TEXT       a tombstone; gc [--yes] removes bytes that nobody names
  python -m runner export gallery RUN                   a run's images as files with names, and a page
  python -m runner rebuild [index | mlflow]             projections made again from the truth
  python -m runner gpu [hold -- COMMAND]                who holds the device; run any command under its lease
  python -m runner ui                                   the MLflow UI

Experiments: {experiments}
Verbs take --json and --outputs DIR; `python -m runner VERB --help` says more.
Exit codes: 0 complete, 1 unavailable, 2 refused, 3 failed or incomplete, 4 corrupt, 130 interrupted.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them costs more than our whole contract
    gc.disable()  # start-up makes many objects and frees few: looking for garbage would be a third of a refusal
    try:
        return _answer(words)
    finally:
        gc.enable()


def _answer(words: list[str]) -> int:
    as_json = "output=json" in words or "--json" in words
    try:
        return _dispatch(words)
    except RunnerError as error:
        return _refuse(error, as_json, verb=bool(words) and words[0].isalpha())
    except KeyboardInterrupt:  # Interrupted is one
        return Interrupted.exit_code
    except BrokenPipeError:
        _close_output()
        return 0


def _close_output() -> None:
    """The reader of our output went away, as `head` does; Python would complain once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP.format(experiments=", ".join(_experiments())))
        return 0
    if words[0].isalpha():
        return _verb(words)
    from runner import config

    command = config.parse_command(words)
    if command.needs_hydra:
        return _hydra([*command.overrides, *command.flags])
    return run_request(config.compose(command.overrides), STARTED_S)


def run_request(values: dict[str, Any], begun_s: float) -> int:
    """One composed request down the one path; returns its exit code."""
    clock = Clock()
    clock.start(begun_s)
    clock.add("compose", time.perf_counter() - begun_s)
    with clock.phase("validate"):
        from runner import config, contract

        request = config.parse_request(contract.take_parties(values))
        accepted_contract = contract.check(request)
        pins = contract.pin(accepted_contract)
    if request.until == "contract":
        return _show_contract(accepted_contract, pins)
    return _run(accepted_contract, pins, clock)


def _show_contract(accepted_contract: Any, pins: Any) -> int:
    from runner import contract
    from runner.report.summary import print_card

    tokens = [count.as_dict() for count in accepted_contract.tokens]
    card = contract.card(accepted_contract, pins)
    if accepted_contract.request.output == "json":
        print(json.dumps({"contract": card, "tokens": tokens, "faults": []}, ensure_ascii=False))
    else:
        print_card(card, tokens)
    return 0


def _run(accepted_contract: Any, pins: Any, clock: Clock) -> int:
    with clock.phase("plan"):
        from runner import execute, track
        from runner.report.live import Live

        accepted = execute.accept(accepted_contract, pins)
        workers = _workers()
    request = accepted.request
    if request.until == "plan":
        return _show_plan(accepted)
    if accepted.fallback:
        print(f"fallback: {accepted.fallback}; recorded in the manifest", file=sys.stderr)
    trackers: list[track.Tracker] = []

    def open_tracker(folder: Path) -> None:
        if request.track.kind == "mlflow":
            trackers.append(track.Tracker(folder, request.track.timeout_s))
            trackers[0].start(request.track)

    with clock.phase("plan"):
        progress = Live(accepted.plan.num_expected)
    with progress as live:
        watch = execute.Watch(on_open=open_tracker, on_event=live.on_event, on_progress=live.on_progress)
        result = execute.execute(accepted, workers, clock, watch)
    if not trackers and not track.read_pointer(result.folder).get("closed"):
        open_tracker(result.folder)  # nothing to make, but an earlier attempt was not tracked
    with contextlib.suppress(KeyboardInterrupt):  # the run has its ending; what shows it can be made again
        _project(result, trackers)
    if result.bug:
        traceback.print_exception(result.bug)
    try:
        _tell(request, result, track.read_pointer(result.folder).get("mlflow_run_id"))
    except BrokenPipeError:
        _close_output()
    return result.exit_code


def _project(result: Any, trackers: list[Any]) -> None:
    """Bring report, index and MLflow up to date; none of them can fail a run."""
    from runner import index
    from runner.report.page import write_report
    from runner.store import open_store

    outputs = result.folder.parent.parent
    with _said("report"):
        write_report(result.folder, open_store(outputs, None))
    with _said("index"):
        index.refresh(outputs)
    if trackers and (line := trackers[0].finish().line(outputs)):
        print(line, file=sys.stderr)


@contextlib.contextmanager
def _said(name: str) -> Iterator[None]:
    """What keeps a projection from being written is said, and nothing more."""
    try:
        yield
    except (OSError, RunnerError) as error:
        print(f"the {name} was not written: {error}", file=sys.stderr)


def _workers() -> dict[str, Any]:
    """The one table of workers: stage -> what does its steps."""
    from runner import critic, generate

    return {"generate": generate.work, "critique": critic.work}


def _tell(request: Any, result: Any, mlflow_run_id: str | None) -> None:
    from runner import journal
    from runner.report.summary import print_summary

    run = journal.read_run(result.folder)
    if request.output == "text":
        print_summary(run, result.status, result.made, result.kept, mlflow_run_id, result.num_deleted)
        return
    line = {
        "run_id": result.run_id,
        "status": result.status,
        "exit_code": result.exit_code,
        "images": run.images(),
        "mlflow_run_id": mlflow_run_id,
        "faults": [result.failure.as_dict()] if result.failure else [],
        "made": dict(result.made),
        "kept": dict(result.kept),
    }
    print(json.dumps(line, ensure_ascii=False))


def _show_plan(accepted: Any) -> int:
    from runner.report.summary import print_plan

    expected = accepted.plan.num_expected
    if accepted.request.output == "json":
        images = [{"key": i.key, "seed": i.seed, "prompt": i.prompt.text} for i in accepted.plan.images]
        print(json.dumps({"identity": accepted.plan.identity, "expected": expected, "images": images, "faults": []}))
    else:
        print_plan(expected, len(accepted.plan.steps), accepted.device, accepted.memory)
    return 0


def _verb(words: list[str]) -> int:
    from runner import verbs

    if words[0] not in verbs.VERBS:
        what = f"{words[0]!r} is not a verb"
        hint = f"Did you mean +experiment={words[0]}? " if words[0] in _experiments() else ""
        raise Refused(Fault("unknown_verb", "command line", what, hint + choose(words[0], verbs.VERBS)))
    return verbs.call(words)


def _hydra(words: list[str]) -> int:
    """Sweeps and Hydra's own flags: the same job function, called by Hydra's launcher."""
    import hydra

    from runner import config

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that what Hydra raises reaches us and becomes a refusal
    sys.argv = ["runner", *words]
    with config.translated():
        hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="config")(sweep_job)()
    return 0


def sweep_job(values: Any) -> int:
    """One job of a sweep, with the exit code that it would have had alone; an interrupt ends the sweep."""
    from runner import config

    try:
        code = run_request(config.plain(values), time.perf_counter())
    except RunnerError as error:
        return _refuse(error, as_json=False, verb=False)
    if code == Interrupted.exit_code:
        raise SystemExit(code)
    return code


def _refuse(error: RunnerError, as_json: bool, *, verb: bool) -> int:
    from runner.report.summary import print_faults

    print_faults(error)
    if as_json:
        faults = [fault.as_dict() for fault in error.faults]
        line = {"status": error.title, "exit_code": error.exit_code, "faults": faults}
        if not verb:
            line = {"run_id": None, "images": [], "mlflow_run_id": None, **line}
        print(json.dumps(line, ensure_ascii=False, default=str))
    return error.exit_code


def _experiments() -> list[str]:
    from runner import config

    return sorted(path.stem for path in (config.conf_dir() / "experiment").glob("*.yaml"))


def console() -> None:
    """Entry point of the `runner` script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
