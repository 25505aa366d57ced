"""A command line becomes plain values; what Hydra says against it becomes our faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import config
from runner.errors import Refused
from tests import fakes

HEAD = "# @package _global_\ndefaults:\n  - override /base_model: shapes\n  - override /prompt: shapes\n"


def refused(*words: str) -> str:
    """What a person reads for a command line that does not become a request."""
    with pytest.raises(Refused) as refusal:
        config.parse_request(config.compose(config.parse_command([*words]).overrides))
    return str(refusal.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "experiment=demo",
            "- experiment: is not chosen by default. Type `+experiment=demo`.",
        ),
        (
            "+experiment=demo hydra.run.dir=/tmp/x",
            "- hydra: 'hydra.run.dir=/tmp/x' would be ignored: a single run writes only under `outputs`. "
            "Leave it out, or sweep with -m.",
        ),
        (
            "+experiment=demo stpes=10",
            "- stpes: is not a config group or setting. Did you mean 'generate.steps'?",
        ),
        (
            "+experiment=demo +stpes=10",
            "- stpes: is not a setting (given 10). Did you mean 'generate.steps'?",
        ),
        (
            "+experiment=demo lorra=emblem",
            "- lorra: is not a config group or setting. Did you mean 'lora'?",
        ),
        (
            "+experiment=demo ~lora",
            "- lora: has no value. Set it in the experiment file or with `lora=VALUE`.",
        ),
        (
            "+experiment=demo ~lora.scale",
            "- lora.scale: has no value. Set it in the experiment file or with `lora.scale=VALUE`.",
        ),
        (
            "+experiment=demo ~run.zzz",
            "- run.zzz: is not a setting. Known there: run.fresh, run.id.",
        ),
        (
            "+experiment=demo seed=1,2",
            "- command line: Ambiguous value for argument 'seed=1,2'. Quote values with spaces or special characters: "
            "'key=\"a, b\"'; to sweep over several, add -m.",
        ),
        (
            "+experiment=demo name=[a",
            "- command line: no viable alternative at input '[a'. Quote values with spaces or special characters: "
            "'key=\"a, b\"'; to sweep over several, add -m.",
        ),
        (
            "+experiment=demo name=${nowhere}",
            "- name: points to 'nowhere', which is not there. Name a key that exists, or write the value itself.",
        ),
        (
            "+experiment=demo junk",
            "- junk: is no override. Write key=value, +key=value or ~key.",
        ),
        (
            "base_model=shapes prompt=shapes",
            "- mode: has no value. Set it in the experiment file or with `mode=VALUE`.",
        ),
    ],
)
def test_what_hydra_says_is_said_in_our_words(words: str, message: str) -> None:
    assert refused(*words.split()) == message


@pytest.mark.parametrize(
    ("group", "typed", "hint"),
    [
        ("experiment", "dmo", "Did you mean 'demo'? "),
        ("lora", "emblm", "Did you mean 'emblem'? "),
        ("base_model", "shape", "Did you mean 'shapes'? "),
        ("hardware", "tpu", "Did you mean 'cpu'? "),
        ("generate", "fast", ""),
    ],
)
def test_an_unknown_option_is_answered_with_the_known_ones(group: str, typed: str, hint: str) -> None:
    words = [f"+experiment={typed}"] if group == "experiment" else ["+experiment=demo", f"{group}={typed}"]
    known = ", ".join(sorted(path.stem for path in (fakes.ROOT / "conf" / group).glob("*.yaml")))
    assert refused(*words) == f"- {group}={typed}: conf/{group} has no {typed!r}. {hint}Known: {known}."


def test_a_group_without_a_default_is_asked_for() -> None:
    known = ", ".join(sorted(path.stem for path in (fakes.ROOT / "conf" / "prompt").glob("*.yaml")))
    message = "- prompt: is not chosen, and there is no default. Type +experiment=NAME or prompt=NAME."
    assert refused("base_model=shapes", "mode=base") == f"{message} Known: {known}."


def test_a_null_for_a_group_is_a_refusal() -> None:
    assert refused("+experiment=demo", "generate=null").startswith("- generate: ")


def test_an_option_of_the_command_line_that_nobody_knows_is_a_refusal() -> None:
    message = "- command line: cannot read --nope. See `python -m runner --help`."
    assert refused("+experiment=demo", "--nope") == message


@pytest.mark.parametrize("token", ["<ohwx>", "<emblm>", "<a-b_c>"])
def test_a_bare_trigger_token_is_quoted_for_hydra(token: str) -> None:
    assert config.parse_command([f"trigger.token={token}"]).overrides == (f'trigger.token="{token}"',)


def test_a_quoted_trigger_token_arrives_as_it_was_typed() -> None:
    assert fakes.composed("demo", "trigger.token=<a-b_c>")["trigger"]["token"] == "<a-b_c>"


def test_the_cards_of_real_models_lie_where_this_machine_keeps_models() -> None:
    values = fakes.composed("sdxl_lora", "local.models=/data/m")
    assert [values[group]["path"] for group in ("base_model", "lora")] == [
        "/data/m/sdxl", "/data/m/loras/sdxl_style.safetensors",
    ]  # fmt: skip


def test_hydra_itself_handles_sweeps_and_its_own_flags() -> None:
    flags = [["-m"], ["--multirun"], ["--cfg", "job"], ["--info"], ["--help"]]
    assert [config.parse_command(["+experiment=demo", *flag]).needs_hydra for flag in flags] == [True] * len(flags)
    assert not config.parse_command(["+experiment=demo", "seed=1"]).needs_hydra


# ---- a person's own conf folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "experiment").mkdir()
    return tmp_path


def test_an_experiment_of_ones_own_folder_composes(own: Path) -> None:
    (own / "experiment" / "mine.yaml").write_text(HEAD + "name: mine\nmode: base\nseed: 3\n", "utf-8")
    values = config.compose(config.parse_command(["+experiment=mine", "--config-dir", str(own)]).overrides)
    assert (values["name"], values["seed"]) == ("mine", 3)


def test_overrides_may_follow_the_config_folder(own: Path) -> None:
    (own / "experiment" / "mine.yaml").write_text(HEAD + "name: mine\nmode: base\n", "utf-8")
    command = config.parse_command(["+experiment=mine", "--config-dir", str(own), "seed=3"])
    assert config.compose(command.overrides)["seed"] == 3


def test_a_config_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    message = f"- --config-dir: {nowhere} is not a folder. Name your conf folder."
    assert refused("+experiment=demo", "--config-dir", str(nowhere)) == message


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("\tname: x\n", 1, "found character '\\t' that cannot start any token"),
        (HEAD + "name: [a\nmode: base\n", 6, "expected ',' or ']'"),
        (HEAD + "name: a\nname: b\n", 6, "found duplicate key name"),
        ("a: 1\n b: 2\n", 2, "mapping values are not allowed here"),
    ],
)
def test_a_mistake_in_ones_own_yaml_names_file_line_and_mistake(own: Path, text: str, line: int, what: str) -> None:
    file = own / "experiment" / "mine.yaml"
    file.write_text(text, "utf-8")
    message = refused("+experiment=mine", "--config-dir", str(own))
    assert message.startswith(f"- {file}, line {line}: is not YAML: ")
    assert what in message


def test_a_typo_in_ones_own_file_finds_the_nearest_key(own: Path) -> None:
    (own / "experiment" / "mine.yaml").write_text(HEAD + "name: mine\nmode: base\nstpes: 3\n", "utf-8")
    message = "- stpes: is not a setting (given 3). Did you mean 'generate.steps'?"
    assert refused("+experiment=mine", "--config-dir", str(own)) == message


def test_a_mistyped_group_in_ones_own_file_is_named(own: Path) -> None:
    text = HEAD.replace("/prompt: shapes", "/promt: shapes") + "name: mine\nmode: base\n"
    (own / "experiment" / "mine.yaml").write_text(text, "utf-8")
    assert "promt" in refused("+experiment=mine", "prompt=shapes", "--config-dir", str(own))


def test_a_missing_experiment_is_answered_with_ones_own_as_well(own: Path) -> None:
    (own / "experiment" / "mine.yaml").write_text(HEAD + "name: mine\nmode: base\n", "utf-8")
    assert "Did you mean 'mine'?" in refused("+experiment=mien", "--config-dir", str(own))


@pytest.mark.parametrize("flag", ["--config-name", "--config-path", "--package"])
def test_a_flag_of_hydra_that_a_single_run_would_ignore_is_refused(flag: str) -> None:
    with pytest.raises(Refused, match=f"{flag}: would be ignored: a request has one root config"):
        config.parse_command(["+experiment=demo", flag, "other"])
