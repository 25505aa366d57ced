"""The command line of the verbs: options in, one value out, printed for a person or for a program."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.errors import Corrupt, Fault, Refused
from runner.verbs import inspect as inspecting
from runner.verbs import show
from runner.verbs import status as telling
from runner.verbs import verify as verifying

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
VERBS = ("status", "inspect", "verify", "ui")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output.")]
Outputs = Annotated[Path | None, typer.Option(help="Root of everything written; RUNNER_OUTPUTS or ./outputs.")]


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="Run id, or the beginning of one; all runs without it.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Say it again at every change, until it ends.")] = False,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """What is true now: every run, its status, what is planned, complete and failed."""
    rows = telling.follow(_root(outputs), run) if follow else iter([telling.status(_root(outputs), run)])
    for row in rows:
        _print({"runs": row}, as_json, show.runs)


@app.command()
def inspect(
    things: Annotated[
        list[str], typer.Argument(help="A run id, an image digest, a model folder, or any number of weight files.")
    ],
    outputs: Outputs = None,
    base: Annotated[Path | None, typer.Option(help="Model folder: does this LoRA fit it?")] = None,
    as_json: AsJson = False,
) -> None:
    """What a run, an image, a LoRA file or a model folder is, and the evidence for it."""
    facts = (
        inspecting.inspect(_root(outputs), things[0], base)
        if len(things) == 1
        else inspecting.inspect_many(things, base)
    )
    _print(facts, as_json, show.files if "files" in facts else show.facts)
    if facts.get("unknown"):
        raise typer.Exit(Refused.exit_code)


@app.command()
def verify(
    run: Annotated[str | None, typer.Argument(help="Run id, or the beginning of one; everything without it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run and the whole store.")] = False,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """Hash everything again; exit 4 and exact names on any difference. Repairs nothing."""
    if run and everything:
        raise Refused(Fault("bad_option", "verify", f"got both {run!r} and --all", "Name a run, or say --all"))
    result = verifying.verify(_root(outputs), run)
    _print(result, as_json, show.verification)
    if not result["ok"]:
        raise typer.Exit(Corrupt.exit_code)


@app.command()
def ui(
    outputs: Outputs = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
    as_json: AsJson = False,
) -> None:
    """The MLflow UI on our store, started lean: one worker, job execution and telemetry off."""
    root = _root(outputs)
    if not (root / "mlflow.db").exists():
        fix = "Run an experiment first: python -m runner +experiment=demo"
        raise Refused(Fault("tracking_missing", "ui", f"{root} has no mlflow.db", fix))
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{root}/mlflow.db",
        "--default-artifact-root", (root / "mlartifacts").as_uri(),
        "--host", host, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    _print({"url": f"http://{host}:{port}", "command": command}, as_json, lambda facts: f"MLflow UI: {facts['url']}")
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    sys.stdout.flush()
    os.execvpe(sys.executable, command, {**os.environ, **lean})


def call(words: list[str]) -> int:
    """Run one verb and return its exit code; typer itself answers a wrong option, with exit code 2."""
    try:
        app(words, prog_name="python -m runner")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _root(outputs: Path | None) -> Path:
    return (outputs or Path(os.environ.get("RUNNER_OUTPUTS", "outputs"))).absolute()


def _print(value: Any, as_json: bool, for_people: Callable[[Any], str]) -> None:
    print(json.dumps(value) if as_json else for_people(value))
