"""One function executes an accepted plan: nothing else calls a worker, a pipeline or loads a LoRA."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest

from tests.test_arrows import MODULES, OWN

TREES = {name: ast.parse(path.read_bytes()) for name, path in MODULES.items()}


def _where(matches: Callable[[ast.AST], bool]) -> set[str]:
    """The modules in which some node of the code matches."""
    return {name for name, tree in TREES.items() if any(map(matches, ast.walk(tree)))}


def _calls(name: str) -> Callable[[ast.AST], bool]:
    return lambda node: isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name


def _calls_whole(name: str) -> Callable[[ast.AST], bool]:
    return lambda node: isinstance(node, ast.Call) and ast.unparse(node.func) == name


def _attribute(name: str) -> Callable[[ast.AST], bool]:
    return lambda node: isinstance(node, ast.Attribute) and node.attr == name


def _looks_up_a_worker(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and ast.unparse(node.value).lower() == "workers"


def _is_table_of_workers(node: ast.AST) -> bool:
    return isinstance(node, ast.Dict) and any(ast.unparse(value).endswith(".work") for value in node.values)


def test_only_the_loop_calls_a_worker() -> None:
    assert _where(_calls_whole("work")) == {"runner.execute.loop"}
    assert _where(_looks_up_a_worker) == {"runner.execute.loop"}


def test_only_the_door_has_the_table_of_workers() -> None:
    assert _where(_is_table_of_workers) == {"runner.__main__"}
    users = {name for name in _where(_attribute("work")) if not name.startswith("runner.builtin")}
    assert users == {"runner.__main__"}


def test_only_the_door_starts_the_loop() -> None:
    assert _where(_calls_whole("execute.execute")) == {"runner.__main__"}


@pytest.mark.parametrize("name", ["load_lora_weights", "set_adapters", "unload_lora_weights", "load_lora_adapter"])
def test_no_library_loads_a_lora_behind_our_back(name: str) -> None:
    assert not {module for module in _where(_attribute(name)) if not module.startswith("runner.builtin")}


def test_only_the_generator_puts_a_lora_into_a_pipeline() -> None:
    users = {module for module in _where(_calls("attach")) if not module.startswith("runner.builtin")}
    assert {module.split(".")[1] for module in users} == {"generate"}


def test_only_the_door_imports_both_the_loop_and_the_workers() -> None:
    of = {name: {o.imported.split(".")[1] for o in OWN if o.importer == name} for name in TREES}
    assert [name for name, rooms in of.items() if rooms >= {"execute", "generate", "critic"}] == ["runner.__main__"]
