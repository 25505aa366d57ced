"""What a person looks at: progress while a run goes, and a picture, a page and a table afterwards.

Everything here is derived from the journal and the store and can be deleted. `write` makes `grid.png` and
`report.html` in the run folder. It decides nothing and records nothing.
"""

from pathlib import Path

from runner import journal
from runner.report.grid import draw_grid
from runner.report.live import Live
from runner.report.page import write_page
from runner.report.summary import print_card, print_faults, print_summary
from runner.store import Store

__all__ = ["Live", "print_card", "print_faults", "print_summary", "write"]


def write(run_folder: Path, objects: Store) -> None:
    """Draw the grid and the page of a run as far as it has come."""
    run = journal.read_run(run_folder)
    draw_grid(run, objects, run_folder / "grid.png")
    write_page(run, objects, run_folder / "report.html")
