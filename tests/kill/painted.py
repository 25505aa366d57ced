"""The one path without models: `python -m tests.kill.painted OUTPUTS [PAUSE_S]` paints 16 pictures and judges."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests import fakes, worlds

SIZE = (worlds.prompts(4), "generate.images_per_prompt=4")
PAUSE_S = 0.01  # before each batch, so that a kill can come between two as well as inside one


def main(outputs: Path, pause_s: float = PAUSE_S) -> int:
    painter = fakes.Painter(before=lambda bench: time.sleep(pause_s))
    return worlds.run(worlds.accept(outputs, *SIZE), generate=painter).exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(float, sys.argv[2:])))
