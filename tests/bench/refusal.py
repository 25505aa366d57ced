"""How long a person waits for "no": a whole refused request against starting Python and importing Hydra."""

from __future__ import annotations

import sys

from tests.bench.timed import Row, in_pairs, process_s

REFUSED = [sys.executable, "-m", "runner", "+experiment=demo", "trigger.token=<emblm>"]
PEER = [sys.executable, "-c", "import hydra"]


def measure(pairs: int) -> list[Row]:
    return [
        in_pairs(
            "refusal / import hydra (s)",
            lambda: process_s(REFUSED, exit_code=2),
            lambda: process_s(PEER),
            pairs=2 * pairs,
            goal="<= 2.5",
        )
    ]
