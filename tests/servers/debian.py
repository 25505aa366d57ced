"""`llama-server` and every library it needs out of Debian unstable, unpacked into a folder and not installed.

apt itself chooses, fetches and verifies: the index by Debian's signature, each package by the digest in that index. It
works in folders of its own, so nothing of this machine changes and nobody needs to be root. Debian keeps no old
versions of unstable where everyone finds them, so the version is what is current on the day; `packages.txt` says which.
It needs Debian's apt and keys, and refuses in words where they are not. The program cannot run its own children (the
router of `--models-dir`): it is started through Debian's loader.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

RECIPE = "debian-1"  # another way to unpack is another folder
PACKAGE = "llama.cpp-tools"
SOURCE = "deb [signed-by={keys}] http://deb.debian.org/debian sid main\n"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TOOLS = ("apt-get", "dpkg-deb")
TIMEOUT_S = 120
START = """#!/bin/sh
# {program} with the loader and the libraries of the distribution that it was built for
here=$(dirname "$(readlink -f "$0")")
exec "$here/{loader}" --library-path "$here/{libraries}:$here/{libraries}/llama" "$here/usr/bin/{program}" "$@"
"""


def program(folder: Path) -> Path:
    """Where the program is, once it is there."""
    return folder / "llama-server"


def get(folder: Path) -> Path | str:
    """The program in that folder; fetched and unpacked when it is not there, by one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if program(folder).exists():
            return program(folder)
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            try:
                _unpack(_download(Path(place)), root := Path(place) / "root")
                _write_start(root)
            except (OSError, subprocess.SubprocessError, _Missing) as error:
                return f"no llama-server from Debian: {_said(error)}"
            root.rename(folder)
    return program(folder)


class _Missing(Exception):
    """Something that Debian's packages need or should hold is not there."""


def _download(place: Path) -> list[Path]:
    """The package files of the server and all it needs, verified."""
    lacking = [name for name in TOOLS if shutil.which(name) is None] + [str(KEYS)] * (not KEYS.exists())
    if lacking:
        raise _Missing(f"this machine has no {' and no '.join(lacking)}")
    for part in ("state/lists/partial", "cache/archives/partial", "none"):
        (place / part).mkdir(parents=True)
    (place / "status").touch()  # as if nothing were installed: every library comes along
    (place / "sources.list").write_text(SOURCE.format(keys=KEYS))
    _apt(place, "update", "--error-on=any")
    _apt(place, "install", "--download-only", "--no-install-recommends", "--yes", PACKAGE)
    return sorted((place / "cache" / "archives").glob("*.deb"))


def _apt(place: Path, *words: str) -> None:
    settings = {
        "Dir::State": place / "state", "Dir::State::status": place / "status", "Dir::Cache": place / "cache",
        "Dir::Etc::sourcelist": place / "sources.list", "Dir::Etc::sourceparts": place / "none",
        "Acquire::Languages": "none", "Acquire::http::Timeout": "20", "Acquire::Retries": "2",
        "APT::Sandbox::User": "",
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    _run("apt-get", *options, *words)


def _unpack(packages: list[Path], root: Path) -> None:
    for package in packages:
        _run("dpkg-deb", "--extract", str(package), str(root))
    (root / "packages.txt").write_text("".join(f"{package.name}\n" for package in packages))


def _write_start(root: Path) -> None:
    """A script that starts the program through its own loader.

    The loader stands beside the variants of the processor's code: the program looks for them where it believes to be.
    """
    found = sorted(root.glob("usr/lib/*-linux-gnu*/ld-linux*"))
    variants = sorted(root.glob("usr/lib/*/ggml/backends*"))
    if not (found and variants and (root / "usr/bin/llama-server").exists()):
        raise _Missing("its packages hold no llama-server, loader or processor code where they used to")
    loader = variants[0] / "llama-server"
    shutil.copy2(found[0], loader)
    start = program(root)
    parts = {"loader": loader.relative_to(root), "libraries": found[0].parent.relative_to(root)}
    start.write_text(START.format(program="llama-server", **parts))
    start.chmod(0o755)


def _run(*words: str) -> None:
    spoken = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=TIMEOUT_S, env=spoken)


def _said(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if line.startswith("E:")] or error.stderr.splitlines()
        return f"{error.cmd[0]} failed ({lines[0] if lines else error.returncode})"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} took more than {TIMEOUT_S} s"
    return str(error)
