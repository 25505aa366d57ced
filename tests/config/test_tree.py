"""The tree is the manual of every key: each field has its line and no default of its own."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from runner.config import critic, section, tree
from runner.config.faults import known_paths, nearest_path

MODULES = (tree, critic)
SECTIONS = list(dict.fromkeys(
    value for module in MODULES for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, section.Section) and value is not section.Section
))  # fmt: skip
FIELDS = [(section, name) for section in SECTIONS for name in section.model_fields]
SOURCE = [node for module in MODULES for node in ast.parse(Path(str(module.__file__)).read_bytes()).body]
IDS = [f"{section.__name__}.{name}" for section, name in FIELDS]


def _line_under(section: type[BaseModel], name: str) -> str | None:
    """The text that stands right under a field in the source."""
    body = next(node.body for node in SOURCE if isinstance(node, ast.ClassDef) and node.name == section.__name__)
    for field, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == name and isinstance(below, ast.Expr):
            return str(ast.literal_eval(below.value))
    return None


@pytest.mark.parametrize(("section", "name"), FIELDS, ids=IDS)
def test_every_field_has_one_line_that_explains_it(section: type[BaseModel], name: str) -> None:
    line = _line_under(section, name)
    assert line is not None, f"{section.__name__}.{name} has no line under it"
    assert line.endswith(".") and "\n" not in line and len(line) > 8


@pytest.mark.parametrize(("section", "name"), FIELDS, ids=IDS)
def test_no_field_has_a_default_of_its_own(section: type[BaseModel], name: str) -> None:
    assert section.model_fields[name].is_required()


def test_a_section_is_frozen_closed_strict_and_free_of_nan() -> None:
    wanted = {"extra": "forbid", "frozen": True, "strict": True, "allow_inf_nan": False}
    for each in SECTIONS:
        config: dict[str, Any] = {**each.model_config}
        assert {name: config[name] for name in wanted} == wanted


def test_known_paths_name_sections_and_values() -> None:
    paths = list(known_paths())
    assert {"seed", "generate", "generate.steps", "prompt.budget.max"} <= set(paths)
    assert {"critic.decision.accept_at", "critic_runtime.server.command", "critic_runtime.path"} <= set(paths)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("stpes", "Did you mean 'generate.steps'?"),
        ("generate.stpes", "Did you mean 'generate.steps'?"),
        ("lorra", "Did you mean 'lora'?"),
        ("sede", "Did you mean 'seed'?"),
        ("guidence_scale", "Did you mean 'generate.guidance_scale'?"),
        ("run.zzz", "Known there: run.fresh, run.id"),
        ("zzz.zzz", "Known there: nothing"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_or_those_beside_it(typed: str, answer: str) -> None:
    assert nearest_path(typed) == answer
