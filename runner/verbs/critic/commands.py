"""The command line of `critic`: options in, one value out."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.errors import Failed, Refused
from runner.verbs.options import AsJson, Outputs, root, tell, there

critics = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
Words = Annotated[
    list[str] | None, typer.Argument(help="Overrides of the demo: critic=shapes critic_runtime=shapes_clip")
]


@critics.command()
def profiles(as_json: AsJson = False) -> None:
    """Every version of every profile, its digest, and whether it is what it was locked as."""
    from runner.verbs.critic import profiles as locking

    tell(locking.profiles(), as_json, locking.text)


@critics.command()
def lock(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 2 when the lock is not up to date.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put new profiles and versions into conf/critic.lock.json; refused for one that changed under its version."""
    from runner.verbs.critic import profiles as locking

    value = locking.profiles() if check else locking.lock()
    tell(value, as_json, locking.text)
    if not value["ok"]:
        raise typer.Exit(Refused.exit_code)


@critics.command()
def exam(words: Words = None, outputs: Outputs = None, as_json: AsJson = False) -> None:
    """Load a critic as a run does and examine it; exit 3 when it fails."""
    from runner.verbs.critic import examining
    from runner.verbs.critic.runtime import request_of

    value = examining.exam(request_of(root(outputs), words or ()), root(outputs))
    tell(value, as_json, examining.text)
    if not value["passed"]:
        raise typer.Exit(Failed.exit_code)


@critics.command()
def plan(words: Words = None, outputs: Outputs = None, as_json: AsJson = False) -> None:
    """What a run would load or start: files, memory, command; exit 2 when it would be refused. Starts nothing."""
    from runner.verbs.critic import runtime as answering

    value = answering.plan(answering.request_of(root(outputs), words or ()))
    tell(value, as_json, answering.plan_text)
    if not value["ok"]:
        raise typer.Exit(Refused.exit_code)


@critics.command()
def diff(
    a: Annotated[str, typer.Argument(help="Run id, or the beginning of one.")],
    b: Annotated[str, typer.Argument(help="A run that reviewed the same images.")],
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """What the critic of B says otherwise of the same images: scores, advice, tags; refused when none is common."""
    from runner.verbs.critic import reviews, words

    tell(reviews.diff(there(outputs), a, b), as_json, words.diff_text)


@critics.command()
def calibrate(
    run: Annotated[str, typer.Argument(help="Run id, or the beginning of one.")],
    outputs: Outputs = None,
    as_json: AsJson = False,
) -> None:
    """How far a run's critic agrees with the people who decided on its images."""
    from runner.verbs.critic import reviews, words

    tell(reviews.calibrate(there(outputs), run), as_json, words.calibration_text)
