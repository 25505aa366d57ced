"""Arrows point down only: the layer order of the house, read from every import statement of the code."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import ROOT

PACKAGE = ROOT / "runner"
LAYERS = (
    ("errors",),
    ("config", "store", "timing", "paired"),
    ("journal", "index", "ledger", "gpu", "contract", "prompt", "environment", "builtin"),
    ("plan", "worker", "controlled"),
    ("dataset", "generate", "train", "critic", "taste", "diagnose"),
    ("execute",),
    ("verbs", "review", "report", "track"),
    ("__main__",),
)
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
WORKERS = LAYERS[4]
OWNERS = {
    "torch": {"generate", "critic", "builtin"},
    "diffusers": {"generate", "critic", "builtin"},
    "transformers": {"generate", "critic", "builtin"},
    "peft": {"generate", "builtin"},
    "mlflow": {"track"},
    "obstore": {"store"},
    "llguidance": {"critic"},
    "httpx2": {"critic"},
}


@dataclass(frozen=True)
class Import:
    """One import statement: the module it stands in, what it names, and whether it runs when the module loads."""

    importer: str
    imported: str
    at_load: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


def _modules() -> dict[str, Path]:
    paths = {path.relative_to(ROOT): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {".".join(name.with_suffix("").parts).removesuffix(".__init__"): path for name, path in paths.items()}


MODULES = _modules()


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are written out in full"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in MODULES else str(node.module)


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(module: str, tree: ast.AST, at_load: bool = True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        yield from (Import(module, name, at_load) for name in _named(node))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _only_for_types(node)
        yield from _imports(module, node, at_load and not inside)


IMPORTS = [found for name, path in MODULES.items() for found in _imports(name, ast.parse(path.read_bytes()))]
OWN = [found for found in IMPORTS if found.imported.startswith("runner.") and _room(found.importer)]


def test_every_room_has_a_place_in_the_house() -> None:
    rooms = {_room(name) for name in MODULES} - {""}
    strange = sorted(rooms - HEIGHT.keys())
    assert not strange, f"no place in the layers for {strange}: add them to LAYERS here and to design.md"


def test_arrows_point_down() -> None:
    up = [str(found) for found in OWN if HEIGHT[_room(found.imported)] > HEIGHT[_room(found.importer)]]
    assert not up, f"arrows point up: {up}"


def test_workers_do_not_import_each_other() -> None:
    between = [f for f in OWN if {_room(f.importer), _room(f.imported)} <= set(WORKERS)]
    crossing = [str(found) for found in between if _room(found.importer) != _room(found.imported)]
    assert not crossing, f"what a worker needs from another arrives as bytes from the store: {crossing}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in OWN:
        if found.imported != found.importer:
            graph[found.importer].add(found.imported)
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_is_imported_only_in_rooms_that_own_it(library: str) -> None:
    users = [found for found in IMPORTS if found.imported.partition(".")[0] == library]
    strange = [str(found) for found in users if _room(found.importer) not in OWNERS[library]]
    assert not strange, f"{library} belongs to {sorted(OWNERS[library])}: {strange}"


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_is_never_imported_when_a_module_loads(library: str) -> None:
    early = [found for found in IMPORTS if found.imported.partition(".")[0] == library and found.at_load]
    strange = [str(found) for found in early if not found.importer.startswith("runner.builtin.recipe")]
    assert not strange, f"{library} is imported inside the function that needs it: {strange}"


def test_hydra_and_its_plugins_stay_out_of_the_rooms() -> None:
    users = {_room(f.importer) for f in IMPORTS if f.imported.partition(".")[0] in ("hydra", "omegaconf")}
    assert users == {"config", "__main__"}
