"""The contact sheet and the page of a run: complete, self-contained, and honest about what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner import journal, store
from runner.report import grid
from runner.report.page import write_report
from tests import fakes, worlds

ONLY_IMAGES = ("stages=[generate]", "critic=none", "generate.images_per_prompt=1")


def drawn(outputs: Path, *overrides: str, painter: fakes.Painter | None = None) -> tuple[journal.Run, Any, str]:
    """A run with its picture and its page."""
    folder = worlds.run(worlds.accept(outputs, *overrides), generate=painter or fakes.Painter()).folder
    write_report(folder, store.Store(outputs / "objects"))
    with Image.open(folder / "grid.png") as picture:
        picture.load()
    return journal.read_run(folder), picture, (folder / "report.html").read_text("utf-8")


def cell(picture: Any, block: int, column: int = 0, *, columns: int, across: int) -> Any:
    """The middle colour of one image of the sheet."""
    width = columns * (grid.CELL_PX + grid.PAD_PX) + 2 * grid.PAD_PX
    height = grid.CELL_PX + grid.LABEL_PX + grid.PAD_PX
    left = grid.PAD_PX + block % across * width + column * (grid.CELL_PX + grid.PAD_PX)
    top = grid.PAD_PX + block // across * height + grid.LABEL_PX
    return picture.getpixel((left + grid.CELL_PX // 2, top + grid.CELL_PX // 2))


# ---- grid


@pytest.mark.parametrize(("num_prompts", "note"), [(1, 0), (8, 0), (60, 1)])
def test_the_sheet_has_a_block_for_each_prompt_as_far_as_they_are_shown(
    tmp_path: Path, num_prompts: int, note: int
) -> None:
    _, picture, _ = drawn(tmp_path, *ONLY_IMAGES, worlds.prompts(num_prompts))
    width, height = grid.CELL_PX + 3 * grid.PAD_PX, grid.CELL_PX + grid.LABEL_PX + grid.PAD_PX
    shown = min(num_prompts, grid.MAX_BLOCKS)
    across = grid.blocks_across(shown, width, height)
    rows = -(-shown // across)
    assert picture.size == (across * width, rows * height + grid.PAD_PX + grid.LABEL_PX * note)


def test_the_images_of_a_prompt_stand_in_its_row(tmp_path: Path) -> None:
    run, picture, _ = drawn(tmp_path)
    across = grid.blocks_across(2, 2 * 132 + 8, 150)
    objects = store.Store(tmp_path / "objects")
    for number, image in enumerate(run.images()):
        with Image.open(objects.path(image["digest"])) as made:
            wanted = made.getpixel((32, 32))
        assert cell(picture, number // 2, number % 2, columns=2, across=across) == wanted


def test_a_missing_image_leaves_its_gap(tmp_path: Path) -> None:
    _, picture, _ = drawn(tmp_path, painter=fakes.Painter(broken=frozenset({"on-blue.001"})))
    across = grid.blocks_across(2, 2 * 132 + 8, 150)
    assert cell(picture, 0, 1, columns=2, across=across) == grid.GAP
    assert cell(picture, 0, 0, columns=2, across=across) != grid.GAP


@pytest.mark.parametrize("harm", [b"", b"not a picture"])
def test_a_harmed_object_leaves_a_gap_too(tmp_path: Path, harm: bytes) -> None:
    run, _, _ = drawn(tmp_path)
    objects = store.Store(tmp_path / "objects")
    objects.path(run.images()[0]["digest"]).write_bytes(harm)
    write_report(run.folder, objects)
    with Image.open(run.folder / "grid.png") as picture:
        assert cell(picture, 0, 0, columns=2, across=grid.blocks_across(2, 272, 150)) == grid.GAP


def test_the_arms_of_a_probe_stand_in_one_block(tmp_path: Path) -> None:
    probe = ("+experiment=trigger_probe", "track=none", worlds.prompts(1), "generate.images_per_prompt=1")
    accepted = worlds.accept(tmp_path, base=probe)
    folder = worlds.run(accepted).folder
    write_report(folder, store.Store(tmp_path / "objects"))
    with Image.open(folder / "grid.png") as picture:
        assert picture.size == (2 * 132 + 8, 150 + grid.PAD_PX)


def test_a_sheet_of_many_blocks_is_broader_than_high() -> None:
    for num_blocks in (4, 8, 16, 48):
        across = grid.blocks_across(num_blocks, 140, 150)
        assert across * 140 >= -(-num_blocks // across) * 150


# ---- page


def test_the_page_needs_nothing_from_anywhere(tmp_path: Path) -> None:
    _, _, page = drawn(tmp_path)
    assert not re.search(r"https?://|url\(|<link|<script|@import", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))


def test_the_page_shows_every_image_with_prompt_seed_and_score(tmp_path: Path) -> None:
    run, _, page = drawn(tmp_path)
    assert page.count("<img ") == 4
    for image in run.images():
        assert f"{image['key']}, seed {image['seed']}" in page
        assert f"concept {image['scores']['concept']:.2f}" in page
    assert "a &lt;emblem&gt; on a blue background" in page


def test_markup_in_a_prompt_stays_text(tmp_path: Path) -> None:
    subject = "a {trigger} <script>alert(1)</script> & <b>x</b>"
    folder = worlds.run(worlds.accept(tmp_path, *ONLY_IMAGES, worlds.prompts(1))).folder
    manifest = (folder / "manifest.json").read_text("utf-8")
    (folder / "manifest.json").write_text(manifest.replace("a <emblem>", subject), "utf-8")
    write_report(folder, store.Store(tmp_path / "objects"))
    page = (folder / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;x&lt;/b&gt;" in page


def test_a_failed_run_says_why_on_its_page(tmp_path: Path) -> None:
    _, _, page = drawn(tmp_path, painter=fakes.Painter(error=MemoryError("3 GiB"), error_at=1))
    assert "ran out of memory (3 GiB)" in page
    assert page.count("<img ") == 2
    assert page.count('<div class="none">planned</div>') == 2


def test_an_unmade_image_shows_its_reason(tmp_path: Path) -> None:
    _, _, page = drawn(tmp_path, painter=fakes.Painter(broken=frozenset({"on-blue.001"})))
    assert '<div class="none">failed</div>' in page
    assert '<span class="tag">is blank</span>' in page


def test_the_page_of_the_same_truth_is_the_same_page(tmp_path: Path) -> None:
    run, _, page = drawn(tmp_path)
    write_report(run.folder, store.Store(tmp_path / "objects"))
    assert (run.folder / "report.html").read_text("utf-8") == page
