"""What page and terminal show of verdicts: advice, findings in their place, who judged, and what does not count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner import journal, store
from runner.report import verdicts
from runner.report.page import write_report
from runner.report.summary import print_summary
from tests.report import judged


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> judged.World:
    return judged.world(tmp_path_factory.getbasetemp())


@pytest.fixture
def run(world: judged.World) -> journal.Run:
    return world.first


def page_of(run: journal.Run) -> str:
    write_report(run.folder, store.Store(run.folder.parent.parent / "objects"))
    return (run.folder / "report.html").read_text("utf-8")


def figure(page: str, key: str) -> str:
    """The part of a page about one image."""
    (found,) = [part for part in page.split("<figure")[1:] if f"{key}, seed" in part]
    return found


def told(run: journal.Run, capsys: pytest.CaptureFixture[str]) -> str:
    print_summary(run, run.state.status, {}, {}, None)
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def test_a_finding_is_drawn_over_its_picture_in_percent_of_it(run: journal.Run) -> None:
    part = figure(page_of(run), "on-blue.001")
    assert 'class="box minor" style="left:12%;top:8%;width:50%;height:63%" title="wrong_colour: colour' in part
    assert '<span class="tag">wrong_colour</span>: colour is not as asked (minor)' in part


def test_each_image_has_its_advice_and_the_rule_behind_it(run: journal.Run) -> None:
    page = page_of(run)
    assert '<span class="word reject">reject</span> (aggregate 0 &lt; 0.4)' in figure(page, "on-blue.001")
    assert '<span class="word accept">accept</span>' in figure(page, "on-blue.000")
    assert "unscored: refused: as told" in figure(page, "on-white.000")


def test_the_page_sums_up_what_was_said(run: journal.Run) -> None:
    page = page_of(run)
    assert '<li class="accept"><b>2</b>accept</li>' in page
    assert '<li class="tag"><b>1</b>unscored: refused</li>' in page
    assert '<td>colour</td><td class="num">0.667</td>' in page
    assert '<tr><td>wrong_colour</td><td class="num">1</td></tr>' in page


def test_the_page_says_who_judged_and_how_its_exam_went(run: journal.Run) -> None:
    page = page_of(run)
    assert "Profile shapes v2" in page and "answered by shapes_clip" in page
    assert f"<code>{'e' * 64}</code>" in page
    assert "exam after start" in page and '<td class="accept">swapped</td>' in page


def test_quarantined_verdicts_are_shown_marked_and_are_in_no_figure(world: judged.World) -> None:
    page = page_of(world.stopped)
    assert "<b>3</b>quarantined" in page and "It was examined 2 times: passed, failed." in page
    assert 'class="quarantined"' in figure(page, "on-blue.000") and "<th>criterion</th>" not in page
    review = verdicts.review_of(world.stopped)
    assert review and (review.num_counted, review.num_quarantined, review.scores) == (0, 3, {})


def test_a_pair_stands_side_by_side_with_its_winner(world: judged.World) -> None:
    page = page_of(world.pairs)
    part = figure(page, "on-blue.001")
    assert (part.count("<img "), part.count('<span class="side">')) == (2, 2)
    assert "B is better" in part and "A is better" in figure(page, "on-white.000")
    assert "<b>2</b>ties" in page and "</span> in A: prompt_match is worse" in part


def test_a_verdict_without_bytes_or_of_before_is_shown_by_its_line_alone(tmp_path: Path) -> None:
    run = judged.finished(tmp_path)
    objects = store.Store(tmp_path / "objects")
    objects.path(run.images()[1]["verdict"]).write_bytes(b'{"format": "runner-verdict/1", "scores": {}}')
    part = figure(page_of(run), "on-blue.001")
    assert '<span class="tag">wrong_colour</span>' in part and "<ol>" not in part


def test_the_terminal_says_who_judged_and_what_came_of_it(
    world: judged.World, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(world.first, capsys)
    for words in (
        "shapes v2 by shapes_clip; exam passed",
        "2 accept, 0 unsure, 1 reject",
        "1 wrong_colour",
        "1 refused",
    ):
        assert words in text
    assert "mean 0.667 of 3" in text
    marked = told(world.stopped, capsys)
    assert "3 verdicts, in no figure here" in marked and "exam FAILED" in marked
