"""Every benchmark as a ratio against a peer in one run: a table, then one line of JSON.

`python -m tests.bench [NAME ...] [--pairs N]`. Ratios are medians over pairs run in turn, so that a machine whose
speed drifts shifts both sides alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from tests.bench import (
    critic,
    critic_accuracy,
    demo,
    hashing,
    index,
    inspect,
    journal,
    prompts,
    refusal,
    resume,
    sampler,
    verify,
)
from tests.bench.timed import Row

BENCHES: dict[str, Callable[[int], list[Row]]] = {
    "refusal": refusal.measure,
    "demo": demo.measure,
    "sampler": sampler.measure,
    "prompts": prompts.measure,
    "inspect": inspect.measure,
    "resume": resume.measure,
    "journal": journal.measure,
    "hashing": hashing.measure,
    "verify": verify.measure,
    "index": index.measure,
    "critic": critic.measure,
    "critic_accuracy": critic_accuracy.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="benchmarks; all without a name")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs per ratio")
    options = parser.parse_args()
    rows = [row for name in options.names or BENCHES for row in BENCHES[name](options.pairs)]
    table = Table("what", "ours", "peer", "ratio", "min", "max", "goal")
    for row in rows:
        table.add_row(row.name, f"{row.ours:.3f}", f"{row.peer:.3f}", *(f"{r:.3f}" for r in row.spread()), row.goal)
    Console(width=130).print(table)
    print(json.dumps({row.name: row.as_dict() for row in rows}))


if __name__ == "__main__":
    main()
