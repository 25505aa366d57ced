"""A real browser on the real MLflow UI: used by a slow test, and to draw README's pictures.

`python -m tests.browser OUTPUTS FILE.png` photographs the compare page of the two newest runs of an outputs folder.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# MLflow opens its first visit with an assistant over a quarter of the page; these are its own settings.
CALM = """
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');
"""


@contextmanager
def mlflow_ui(outputs: Path) -> Iterator[str]:
    """`python -m runner ui` on a free port; yields its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "runner", "ui", "--outputs", str(outputs), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_healthy(address: str, server: subprocess.Popen[bytes], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the UI did not answer at {address}")


@contextmanager
def page(width: int = 1600, height: int = 1500) -> Iterator[Any]:
    """A page of headless Chromium, calm as to MLflow's first visit."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = browser.new_context(viewport={"width": width, "height": height})
        context.add_init_script(CALM)
        yield context.new_page()
        browser.close()


def open_compare_page(tab: Any, address: str, experiment: str, runs: list[str]) -> None:
    """Go to MLflow's compare page of some runs and open the artifact that they share, grid.png."""
    query = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}"
    tab.goto(f"{address}/#/compare-runs?{query}")
    tab.get_by_text("grid.png").first.wait_for(timeout=60_000)
    tab.get_by_text("grid.png").first.click(force=True)
    tab.wait_for_timeout(4000)


def tracked_runs(outputs: Path) -> list[str]:
    """MLflow run ids of an outputs folder, oldest first."""
    command = [sys.executable, "-m", "runner", "status", "--outputs", str(outputs), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [run["mlflow_run_id"] for run in json.loads(answer)["runs"] if run["mlflow_run_id"]]


if __name__ == "__main__":
    with mlflow_ui(Path(sys.argv[1])) as place, page() as view:
        open_compare_page(view, place, "1", tracked_runs(Path(sys.argv[1]))[-2:])
        view.screenshot(path=sys.argv[2])
