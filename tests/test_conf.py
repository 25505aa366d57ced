"""What a person reads and chooses from: every file of `conf/` composes and says what it is."""

from __future__ import annotations

import shlex
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml

from tests import fakes

CONF = fakes.ROOT / "conf"
UNTYPED = ("experiment", "hydra", "local")
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in UNTYPED)
OPTIONS = [[f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))] for group in GROUPS]
ROWS = [tuple(filter(None, row)) for row in zip_longest(*OPTIONS)]  # one option of each group at a time
FILES = [path.relative_to(CONF) for path in sorted(CONF.rglob("*.yaml")) if "local" not in path.parts]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_into_a_typed_request(name: str) -> None:
    assert fakes.request({}, name).name == name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_begins_with_its_command_and_that_composes(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text("utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    python, dash_m, runner, *words = shlex.split(lines[1].removeprefix("# "))
    assert [python, dash_m, runner, words[0]] == ["python", "-m", "runner", f"+experiment={name}"]
    fakes.request({}, name, *words[1:])


@pytest.mark.parametrize("words", ROWS, ids=" ".join)
def test_every_option_of_every_group_composes_with_the_demo(words: tuple[str, ...]) -> None:
    assert fakes.request({}, "demo", *words).name == "demo"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_begins_with_what_it_is(file: Path) -> None:
    lines = [line for line in (CONF / file).read_text("utf-8").splitlines() if line != "# @package _global_"]
    assert lines[0].startswith("# ") and len(lines[0]) > 10


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[0] != "hydra"], ids=str)
def test_no_file_of_ours_names_code(file: Path) -> None:
    assert "_target_" not in yaml.safe_dump(yaml.safe_load((CONF / file).read_bytes()))


def test_the_experiment_is_named_on_the_command_line_only() -> None:
    groups = yaml.safe_load((CONF / "config.yaml").read_bytes())["defaults"]
    assert not [entry for entry in groups if "experiment" in str(entry)]


def test_the_mode_and_the_base_model_have_no_default() -> None:
    values = yaml.safe_load((CONF / "config.yaml").read_bytes())
    assert values["mode"] == "???"
    assert {"base_model": "???"} in values["defaults"]
