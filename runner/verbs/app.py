"""The command line of the verbs: options in, one value out, printed for a person or for a program."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.errors import Corrupt, Failed, Fault, Refused, choose
from runner.verbs import show
from runner.verbs import status as telling
from runner.verbs.critic.commands import critics
from runner.verbs.options import AsJson, Outputs
from runner.verbs.options import root as _root
from runner.verbs.options import tell as _print
from runner.verbs.options import there as _there

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
UsageError: Any = typer.BadParameter.__bases__[0]  # typer brings a click of its own, or uses the installed one
devices = typer.Typer(add_completion=False, rich_markup_mode=None)
exports = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
VERBS = (
    "status", "inspect", "find", "verify", "compare", "critic", "import", "delete", "gc", "export", "rebuild", "gpu",
    "ui",
)  # fmt: skip


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="Run id, or the beginning of one; all runs without it.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Say it again as it changes, until it ends.")] = False,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """What is true now: every run, its status, what is planned, complete and failed."""
    root = _there(outputs)
    if not follow:
        _print({"runs": telling.status(root, run)}, as_json, show.runs)
    elif not telling.status(root, run):
        _print({"runs": []}, as_json, lambda value: "No run is under way.")
    elif as_json or not sys.stdout.isatty():
        for rows in _changes(telling.follow(root, run)):
            _print({"runs": rows}, as_json, show.lines)
            sys.stdout.flush()
    else:
        show.live(telling.follow(root, run))


def _changes(all_rows: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    before = None
    for rows in all_rows:
        if (now := telling.without_time(rows)) != before:
            yield rows
        before = now


@app.command()
def inspect(
    things: Annotated[
        list[str],
        typer.Argument(help="A run id, an image or verdict digest, a model folder, or any number of weight files."),
    ],
    outputs: Outputs = None,
    base: Annotated[Path | None, typer.Option(help="Model folder: does this LoRA fit it?")] = None,
    as_json: AsJson = False,
) -> None:
    """What a run, an image, a verdict, a LoRA file or a model folder is, and the evidence for it."""
    from runner.verbs import inspect as inspecting

    facts = (
        inspecting.inspect(_root(outputs), things[0], base)
        if len(things) == 1
        else inspecting.inspect_many(things, base)
    )
    _print(facts, as_json, inspecting.text)
    if facts.get("altered"):
        raise typer.Exit(Corrupt.exit_code)
    if facts.get("unknown"):
        raise typer.Exit(Refused.exit_code)


@app.command()
def find(
    run: Annotated[str | None, typer.Option(help="Run id, or the beginning of one.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Name of the experiment.")] = None,
    lora: Annotated[str | None, typer.Option(help="Id of the LoRA; none for images without one.")] = None,
    base: Annotated[str | None, typer.Option(help="Id of the base model.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A part of the prompt's text.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the image.")] = None,
    tag: Annotated[str | None, typer.Option(help="A tag of its verdict.")] = None,
    advice: Annotated[str | None, typer.Option(help="What its critic advised: accept, reject, unsure.")] = None,
    at_least: Annotated[list[str] | None, typer.Option("--min", help="Criterion and least score: concept=0.8")] = None,
    at_most: Annotated[list[str] | None, typer.Option("--max", help="Criterion and most score.")] = None,
    image_status: Annotated[str | None, typer.Option("--status", help="complete, failed, planned, imported.")] = None,
    sort: Annotated[str | None, typer.Option(help="A criterion, lowest first; -criterion highest first.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many images.")] = 50,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """Images across all runs, by what made them and by their scores."""
    from runner.index import ImageQuery
    from runner.verbs import find as finding

    query = ImageQuery(
        run=run, experiment=experiment, lora=lora, base=base, prompt=prompt, seed=seed, tag=tag, advice=advice,
        status=image_status, sort=sort, limit=limit,
    )  # fmt: skip
    _print(finding.find(_there(outputs), query, at_least or (), at_most or (), count=count), as_json, finding.show)


@app.command()
def verify(
    run: Annotated[str | None, typer.Argument(help="Run id, or the beginning of one; everything without it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run and the whole store.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended, and record it.")] = False,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """Hash everything again; exit 4 and exact names on any difference. Changes nothing unless told to repair."""
    from runner.verbs import verify as verifying

    if run and (everything or repair):
        got = "--all" if everything else "--repair, which looks at everything"
        raise Refused(Fault("bad_option", "verify", f"got both {run!r} and {got}", "Leave out one of them"))
    result = verifying.repair(_root(outputs)) if repair else verifying.verify(_root(outputs), run)
    _print(result, as_json, show.verification)
    if not result["ok"]:
        raise typer.Exit(Corrupt.exit_code)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Run id, or the beginning of one.")],
    b: Annotated[str, typer.Argument(help="The run to compare it with.")],
    knob: Annotated[
        list[str] | None, typer.Option(help="A key they differ in on purpose: generate.steps, lora")
    ] = None,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """What B has that A has not, pair by pair; refused when they differ in more than the knobs."""
    from runner.verbs import compare as comparing

    _print(comparing.compare(_root(outputs), a, b, knob or ()), as_json, comparing.text)


@app.command("import")
def import_images(
    places: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    source: Annotated[str, typer.Option(help="Where they come from: an address, a person, a project.")],
    license: Annotated[str | None, typer.Option(help="What their owner allows.")] = None,
    note: Annotated[str | None, typer.Option(help="Anything else.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What was asked for, when it is known.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="All of them or none.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also those that were deleted before.")] = False,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """Take images from elsewhere into the store, with where they come from. The files are only read."""
    from runner.verbs import bring

    about = bring.About(source, license, note, prompt)
    value = bring.bring(_root(outputs), places, about, strict=strict, again=again)
    _print(value, as_json, bring.text)
    if not value["ok"]:
        raise typer.Exit(Failed.exit_code)


@app.command()
def delete(
    digests: Annotated[list[str], typer.Argument(help="Image digests, or their beginnings.")],
    reason: Annotated[str, typer.Option(help="Why; it is recorded. --undo needs none.")] = "",
    run: Annotated[str | None, typer.Option(help="Only as an image of this run.")] = None,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="In every run that made it.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the deletion back, while the bytes are there.")] = False,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """Mark images as deleted; bytes stay until `gc`. Refused for what a decision or a dataset version holds."""
    from runner.verbs import delete as deleting

    if undo and (run or everywhere):
        raise Refused(Fault("bad_option", "--undo", "got --run or --everywhere too", "Leave them out"))
    value = (
        deleting.undo(_root(outputs), digests, reason)
        if undo
        else deleting.delete(_root(outputs), digests, reason, run=run, everywhere=everywhere)
    )
    _print(value, as_json, deleting.text)


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it only say what would go.")] = False,
    older_than_hours: Annotated[float, typer.Option(min=0, help="Leave younger objects that nobody names.")] = 1.0,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """Remove bytes that no record names, or that were deleted. Says what would go unless told --yes."""
    from runner.verbs import gc as collecting

    value = collecting.gc(_root(outputs), yes=yes, older_than_hours=older_than_hours, now_s=time.time())
    _print(value, as_json, collecting.text)


@exports.command()
def gallery(
    run: Annotated[str, typer.Argument(help="Run id, or the beginning of one.")],
    to: Annotated[Path | None, typer.Option(help="Folder; outputs/exports/RUN without it.")] = None,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """The images of a run as files with names, and a page. Derived: moving them changes nothing."""
    from runner.verbs import export

    value = export.gallery(_root(outputs), run, to)
    _print(value, as_json, export.text)
    if not value["ok"]:
        raise typer.Exit(Corrupt.exit_code)


@app.command()
def rebuild(
    what: Annotated[str | None, typer.Argument(help="index or mlflow; both without it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also runs that were not to be tracked.")] = False,
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """Make the projections again from journals, manifests and objects."""
    from runner.verbs import rebuild as rebuilding

    if what not in (None, *rebuilding.PROJECTIONS):
        raise Refused(Fault("bad_option", "WHAT", f"{what!r} is no projection", choose(what, rebuilding.PROJECTIONS)))
    value = rebuilding.rebuild(_root(outputs), what, everything=everything)
    _print(value, as_json, rebuilding.text)
    if code := rebuilding.exit_code(value):
        raise typer.Exit(code)


@devices.callback(invoke_without_command=True)
def gpu(
    context: typer.Context,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0 ...; all without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Who holds each device of this machine, and who waits for it."""
    from runner.verbs import gpu as leasing

    if context.invoked_subcommand is None:
        _print(leasing.show(device), as_json, leasing.show_text)


@devices.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def hold(
    command: Annotated[list[str], typer.Argument(help="The command, after --")],
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0 ...; the first card, or cpu where there is none.")
    ] = None,
    role: Annotated[str, typer.Option(help="What it does there.")] = "command",
    need_mib: Annotated[int, typer.Option(min=0, help="Memory it needs, in MiB.")] = 0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for its turn, or end with exit code 1.")] = True,
) -> None:
    """Run any command while holding a device, when its turn has come."""
    from runner.verbs import gpu as leasing

    raise typer.Exit(leasing.hold(device, role, need_mib, wait, command))


app.add_typer(critics, name="critic", help="Profiles and their lock, the exam, and what verdicts are worth.")
app.add_typer(devices, name="gpu")
app.add_typer(exports, name="export", help="Derived folders for people.")


@app.command()
def ui(
    outputs: Outputs = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 5000,
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
    """Run one verb and return its exit code; a wrong option is answered with the usage, and for a program with JSON."""
    try:
        code = app(words, prog_name="python -m runner", standalone_mode=False)
    except UsageError as error:
        error.show()
        if "--json" in words:
            fix = f"Look at `python -m runner {words[0]} --help`"
            fault = Fault("bad_option", words[0], str(error).rstrip("."), fix)
            print(json.dumps({"status": "refused", "exit_code": Refused.exit_code, "faults": [fault.as_dict()]}))
        return Refused.exit_code
    return code if isinstance(code, int) else 0
