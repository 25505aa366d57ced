"""What all verbs share on the command line: --json, --outputs, and how a value is printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.errors import Fault, Refused

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output.")]
Outputs = Annotated[Path | None, typer.Option(help="Root of everything written; RUNNER_OUTPUTS or ./outputs.")]


def root(outputs: Path | None) -> Path:
    return (outputs or Path(os.environ.get("RUNNER_OUTPUTS", "outputs"))).absolute()


def there(outputs: Path | None) -> Path:
    """The root, for a question about what is in it. Raises Refused for one that was named and is no folder."""
    if outputs is not None and not outputs.is_dir():
        fix = "Name the outputs folder of your runs with --outputs DIR"
        raise Refused(Fault("outputs_missing", "--outputs", f"{outputs} is no folder", fix))
    return root(outputs)


def tell(value: Any, as_json: bool, for_people: Callable[[Any], str]) -> None:
    print(json.dumps(value) if as_json else for_people(value))
