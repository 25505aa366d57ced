"""Two real runs on MLflow's own compare page, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.__main__ import main
from tests import browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium on this machine")]
SMALL = ["generate.images_per_prompt=1", "generate.steps=2"]


@pytest.mark.filterwarnings("ignore")
def test_the_compare_page_shows_the_pictures_of_both_runs(tmp_path: Path) -> None:
    for experiment in ("demo", "demo_base"):
        assert main([f"+experiment={experiment}", f"outputs={tmp_path}", *SMALL]) == 0
    with browser.mlflow_ui(tmp_path) as address, browser.page() as tab:
        browser.open_compare_page(tab, address, "1", browser.tracked_runs(tmp_path))
        pictures = tab.locator("img[src*='get-artifact'], img[src^='blob:']")
        assert pictures.count() >= 2
        assert tab.get_by_text("lora.id").count() > 0
