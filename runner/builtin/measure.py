"""Measures the shipped models: `python -m runner.builtin.measure` writes figures.json beside them.

The file holds every figure with its n, seed and settings, the sha256 of each weight file it was
measured on, and the library versions. About three minutes on two quiet cores.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from runner import store
from runner.builtin import package_dir


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything and write the figures."""
    from runner.builtin.recipe import figures

    parser = argparse.ArgumentParser("runner.builtin.measure", description="Measures the shipped models.")
    parser.add_argument("--models", type=Path, default=package_dir(), help="the folder of shipped models")
    parser.add_argument("--sheets", type=Path, help="a folder for contact sheets to look at")
    options = parser.parse_args(arguments)
    found = figures.measure(options.models, options.sheets)
    (options.models / "figures.json").write_bytes(store.canonical(found) + b"\n")
    for name, figure in found["figures"].items():
        print(name, figure)


if __name__ == "__main__":
    main()
