"""What a person installs: the wheel holds everything, the script is there, the shell completes it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests import fakes, worlds


def test_the_console_script_is_the_door() -> None:
    (script,) = [entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "runner"]
    assert script.value == "runner.__main__:console"


def test_the_installed_version_is_the_one_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((worlds.ROOT / "pyproject.toml").read_text())["project"]
    assert metadata.version("runner") == project["version"]


def test_the_shell_gets_a_completion_script(tmp_path: Path) -> None:
    answer = fakes.python("-m", "runner", "-sc", "install=bash", cwd=tmp_path)
    assert answer.code == 0
    assert "complete -o nospace -o default -F hydra_bash_completion" in answer.out
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    if importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("build") is None:
        pytest.skip("hatchling or build is not installed")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(worlds.ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


@pytest.mark.slow
def test_the_wheel_holds_code_configs_models_and_plugins(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    wanted = [p.relative_to(worlds.ROOT).as_posix() for p in (worlds.ROOT / "runner").rglob("*.py")]
    wanted += [f"runner/{p.relative_to(worlds.ROOT).as_posix()}" for p in (worlds.ROOT / "conf").rglob("*.yaml")]
    wanted += ["runner/report/report.html.j2", "hydra_plugins/runner_sweeper/checked.py"]
    wanted += [p.relative_to(worlds.ROOT).as_posix() for p in (worlds.ROOT / "runner/builtin").rglob("*.safetensors")]
    assert set(wanted) - names == set()


@pytest.mark.slow
def test_the_wheel_holds_nothing_of_this_machine(wheel: zipfile.ZipFile) -> None:
    strange = [name for name in wheel.namelist() if not name.startswith(("runner/", "hydra_plugins/", "runner-"))]
    assert strange == []
    assert not any("__pycache__" in name or "/local/default" in name for name in wheel.namelist())


@pytest.mark.slow
def test_the_wheel_runs_from_its_own_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    answer = fakes.python(
        "-m", "runner", "+experiment=demo", "until=contract", "output=json",
        cwd=tmp_path / "site", PYTHONPATH=str(tmp_path / "site"),
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.line["faults"] == []
