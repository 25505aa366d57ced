"""Plain values -> a typed request, or every fault of it at once, each with what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from runner.config.tree import Request
from runner.errors import Fault, Refused

MISSING = "???"


def parse_request(values: Mapping[str, Any]) -> Request:
    """Type the composed values. Raises Refused with one fault per wrong key."""
    missing = [_missing_value(path) for path in _missing_paths(values)]
    if missing:
        raise Refused(missing)
    try:
        return Request.model_validate(values)
    except ValidationError as error:
        raise Refused([_fault(problem) for problem in _one_per_place(error)]) from error


def known_paths(model: type[BaseModel] = Request, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a request that is a value or a section of its own; of a union those of each member."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in _sections(field.annotation):
            yield from known_paths(section, f"{prefix}{name}.")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value may be: one, or each of a union; lists of them are no place of their own."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated):
        for part in get_args(annotation):
            yield from _sections(part)


def nearest_path(path: str) -> str:
    """The end of a message about an unknown key: the nearest known key, or those beside it."""
    known = list(dict.fromkeys(known_paths()))
    leaf = path.rpartition(".")[2]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.75)
    near = near or [k for k in known if difflib.SequenceMatcher(None, leaf, k.rpartition(".")[2]).ratio() > 0.75]
    if near:
        return f"Did you mean {min(near, key=len)!r}?"
    parent = path.rpartition(".")[0]
    beside = [k for k in known if k.rpartition(".")[0] == parent]
    return f"Known there: {', '.join(beside) or 'nothing'}"


def _missing_paths(values: Any, path: str = "") -> Iterator[str]:
    if values == MISSING:
        yield path
    children = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, child in children:
        yield from _missing_paths(child, f"{path}.{key}" if path else str(key))


def _missing_value(path: str) -> Fault:
    return Fault("missing_value", path, "has no value", f"Set it in the experiment file or with `{path}=VALUE`")


def _one_per_place(error: ValidationError) -> list[Any]:
    """A union reports one problem per member; the first says enough."""
    seen: dict[str, Any] = {}
    for problem in error.errors(include_url=False):
        if problem["loc"][-1] == "str" and isinstance(problem["input"], Mapping):
            continue  # a prompt that is a table is no text; its own member says what is wrong with it
        seen.setdefault(_path(problem["loc"]), problem)
    return [p for path, p in seen.items() if not (p["type"] == "too_short" and p["input"])]


def _path(location: tuple[int | str, ...]) -> str:
    parts: list[str] = []
    for part in location:
        if isinstance(part, int):
            parts[-1] += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "PromptItem") and not _is_kind_of_critic(parts, part):
            parts.append(part)
    return ".".join(parts)


def _is_kind_of_critic(before: list[str], part: str) -> bool:
    """pydantic names the member of the union that was chosen by `backend`; a person does not type it."""
    return before == ["critic_runtime"] and part in ("clip", "transformers", "openai")


def _fault(problem: Any) -> Fault:
    path, kind, given = _path(problem["loc"]), problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return Fault("unknown_key", path, f"is not a setting (given {given!r})", nearest_path(path))
    if kind == "missing":
        return _missing_value(path)
    code = _CODES.get(kind, "wrong_type")
    if kind == "too_short":
        return Fault(code, path, "is empty", "Give at least one entry")
    shown = f"is {given!r}" if not isinstance(given, (dict, list, tuple)) else f"has {len(given)} entries"
    return Fault(code, path, shown, f"It {problem['msg'].removeprefix('Input ').removeprefix('String ')}")


_CODES = {
    "greater_than": "out_of_bounds",
    "greater_than_equal": "out_of_bounds",
    "less_than": "out_of_bounds",
    "less_than_equal": "out_of_bounds",
    "multiple_of": "out_of_bounds",
    "too_short": "out_of_bounds",
    "finite_number": "out_of_bounds",
    "literal_error": "unknown_option",
    "string_pattern_mismatch": "bad_name",
    "union_tag_invalid": "unknown_option",
}
