"""A command line -> plain values, through Hydra; what Hydra says against it becomes our faults."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.faults import nearest_path
from runner.errors import Fault, Refused, choose

CONFIG_NAME = "config"
HYDRA_FLAGS = ("multirun", "cfg", "info", "help", "hydra_help", "shell_completion", "run", "experimental_rerun")


@dataclass(frozen=True, slots=True)
class Command:
    """What was typed: overrides, and whether Hydra itself must handle it (sweeps, --cfg, --help ...)."""

    overrides: tuple[str, ...]
    flags: tuple[str, ...]
    needs_hydra: bool


def conf_dir() -> Path:
    """The folder of config groups: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / f"{CONFIG_NAME}.yaml").is_file():
            return folder
    raise Refused(Fault("conf_missing", "conf/", "is not beside the package", "Install runner again"))


def parse_command(argv: list[str]) -> Command:
    """Split a command line with Hydra's own parser; `--config-dir DIR` becomes a search path override."""
    from hydra._internal.utils import get_args_parser

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            args = get_args_parser().parse_intermixed_args(argv)
    except SystemExit as error:
        what = "cannot read " + " ".join(word for word in argv if word.startswith("-"))
        raise Refused(Fault("bad_option", "command line", what, "See `python -m runner --help`")) from error
    needs_hydra = any(getattr(args, flag, None) for flag in HYDRA_FLAGS)
    for flag in () if needs_hydra else ("config_name", "config_path", "package"):
        if getattr(args, flag) is not None:
            name, fix = f"--{flag.replace('_', '-')}", "Leave it out; --config-dir DIR adds groups of your own"
            raise Refused(Fault("setting_ignored", name, "would be ignored: a request has one root config", fix))
    overrides = [_quoted(override) for override in args.overrides]
    flags = tuple(word for word in argv if word not in args.overrides)
    return Command((*overrides, *(() if needs_hydra else _search_path(args))), flags, needs_hydra)


def compose(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Compose the request that the overrides name. Raises Refused with what Hydra found wrong."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    _refuse_mistyped(overrides)
    with translated():
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return plain(hydra.compose(CONFIG_NAME, [*overrides]))


def plain(config: Any) -> dict[str, Any]:
    """A composed config as plain values, interpolations resolved; `???` stays for the tree to find."""
    from omegaconf import OmegaConf

    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    values = OmegaConf.to_container(own, resolve=True, throw_on_missing=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@contextmanager
def translated() -> Iterator[None]:
    """Turn what Hydra, OmegaConf and PyYAML raise into a refusal."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise Refused(_fault(error)) from error


def _quoted(override: str) -> str:
    """Hydra's grammar has no `<`; a bare trigger token such as `trigger.token=<ohwx>` is quoted for it."""
    key, equals, value = override.partition("=")
    return f'{key}="{value}"' if equals and re.fullmatch(r"<[^<>\s\"']*>", value) else override


def _search_path(args: argparse.Namespace) -> Iterator[str]:
    if args.config_dir is None:
        return
    folder = Path(args.config_dir).absolute()
    if not folder.is_dir():
        raise Refused(Fault("unknown_option", "--config-dir", f"{folder} is not a folder", "Name your conf folder"))
    yield f"hydra.searchpath=[file://{folder}]"


def _refuse_mistyped(overrides: tuple[str, ...]) -> None:
    for override in overrides:
        if override.startswith("experiment="):
            raise Refused(Fault("unknown_key", "experiment", "is not chosen by default", f"Type `+{override}`"))
        group, _, value = override.partition("=")
        if value == "null" and (conf_dir() / group).is_dir():
            raise Refused(Fault("missing_value", group, "is null", choose("", _options(group))))
        if re.match(r"[+~]*hydra[./]", override) and not override.startswith("hydra.searchpath="):
            what = f"{override!r} would be ignored: a single run writes only under `outputs`"
            raise Refused(Fault("setting_ignored", "hydra", what, "Leave it out, or sweep with -m"))


def _fault(error: Exception) -> Fault:
    if (mark := _yaml_mark(error)) is not None:
        return mark
    text = _whole_text(error)
    for pattern, make in _TRANSLATIONS:
        if found := re.search(pattern, text, re.S):
            return make(found, text)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    fix = "Look at the line it names; `python -m runner --help` lists groups and options"
    return Fault("bad_config", _where(text), " ".join(first.split()), fix)


def _yaml_mark(error: BaseException | None) -> Fault | None:
    """The mistake that PyYAML points at, wherever it stands in the chain of causes."""
    from yaml import MarkedYAMLError

    while error is not None and not isinstance(error, MarkedYAMLError):
        error = error.__cause__ or error.__context__
    if error is None or error.problem_mark is None:
        return None
    where = f"{error.problem_mark.name}, line {error.problem_mark.line + 1}"
    return Fault("bad_yaml", where, f"is not YAML: {error.problem}", "Mend that line")


def _whole_text(error: BaseException) -> str:
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    return "\n".join(texts)


def _unknown_group_option(found: re.Match[str], text: str) -> Fault:
    group, _slash, option = found[1].rpartition("/")
    code = "unknown_experiment" if group == "experiment" else "unknown_option"
    listed = re.search(r"Available options in '[^']*':\n((?:\t[^\n]*\n?)+)", text)
    known = [line.strip() for line in listed[1].splitlines()] if listed else _options(group)
    return Fault(code, f"{group}={option}", f"conf/{group} has no {option!r}", choose(option, known))


def _no_group(found: re.Match[str], text: str) -> Fault:
    key = found[1].partition("@")[0]
    return Fault("unknown_key", key, "is not a config group or setting", nearest_path(key))


def _unknown_key(found: re.Match[str], text: str) -> Fault:
    path = re.search(r"full_key: (\S+)", text)
    key = path[1] if path else found[1]
    return Fault("unknown_key", key, f"is not a setting{_in_file(text)}", nearest_path(key))


def _mandatory_group(found: re.Match[str], text: str) -> Fault:
    group = found[1]
    what = "is not chosen, and there is no default"
    return Fault("missing_value", group, what, f"Type +experiment=NAME or {group}=NAME. {choose('', _options(group))}")


def _bad_word(found: re.Match[str], text: str) -> Fault:
    return Fault("bad_override", found[1], "is no override", "Write key=value, +key=value or ~key")


def _bad_override(found: re.Match[str], text: str) -> Fault:
    fix = "Quote values with spaces or special characters: 'key=\"a, b\"'; to sweep over several, add -m"
    return Fault("bad_override", "command line", " ".join(found[0].split())[:200], fix)


def _interpolation(found: re.Match[str], text: str) -> Fault:
    path = re.search(r"full_key: (\S+)", text)
    fix = "Name a key that exists, or write the value itself"
    return Fault("bad_interpolation", path[1] if path else "config", f"points to {found[1]!r}, which is not there", fix)


_TRANSLATIONS = (
    (r"Error parsing override '([^'=]+)'", _bad_word),
    (r"Could not find '([\w./-]+)'", _unknown_group_option),
    (r"You must specify '([\w./-]+)'", _mandatory_group),
    (r"Could not override '([^']+)'", _no_group),
    (r"Interpolation key '([^']+)' not found", _interpolation),
    (r"Key '([^']+)' (?:is not in struct|not in)", _unknown_key),
    (r"Could not delete from config\. '([^']+)' does not exist", _unknown_key),
    (r"Ambiguous value for argument '[^\n]*", _bad_override),
    (r"(?:mismatched input|no viable alternative|extraneous input|token recognition|NoViableAlt)[^\n]*", _bad_override),
)  # fmt: skip


def _where(text: str) -> str:
    path = re.search(r"full_key: (\S+)", text)
    file = re.search(r"In '([\w./-]+)'", text)
    return path[1] if path else f"conf/{file[1]}.yaml" if file else "command line"


def _in_file(text: str) -> str:
    file = re.search(r"In '([\w./-]+)'", text)
    return f" (in conf/{file[1]}.yaml)" if file and file[1] != CONFIG_NAME else ""


def _options(group: str) -> list[str]:
    """The options of a group in our own conf folder; a person's own search path may add more."""
    folder = conf_dir() / group
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []
