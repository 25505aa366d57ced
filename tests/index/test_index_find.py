"""Finding images: what a query means is what a plain loop over the runs would find."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import index, journal
from runner.errors import Refused
from tests import worlds
from tests.index.dumped import WORDS, written

CRITERIA = ("concept", "background")
BOUNDS = st.lists(st.tuples(st.sampled_from(CRITERIA), st.sampled_from((0.0, 0.3, 0.5, 0.75, 1.0))), max_size=2).map(
    tuple
)
QUERIES = st.builds(
    index.ImageQuery,
    run=st.sampled_from((None, None, "r0", "r1")),
    experiment=st.sampled_from((None, None, "r2")),
    lora=st.sampled_from((None, "emblem", "ink")),
    base=st.sampled_from((None, "shapes")),
    prompt=st.none() | st.sampled_from((*WORDS, "%", "_", "\\", "on a", "nowhere", "")),
    seed=st.none() | st.integers(0, 9),
    tag=st.sampled_from((None, None, "blurred", "cut")),
    advice=st.sampled_from((None, None, None, "accept", "reject", "unsure")),
    at_least=BOUNDS,
    at_most=BOUNDS,
    status=st.sampled_from((None, None, "complete", "failed", "planned", "imported")),
    sort=st.sampled_from((None, "concept", "-concept", "-background")),
    limit=st.sampled_from((None, 0, 1, 7, 1000)),
)
Image = dict[str, Any]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Image]]:
    """An outputs folder of three runs, and all their images, the newest run first."""
    outputs = tmp_path_factory.mktemp("outputs")
    chance, like = random.Random(1), worlds.finished(outputs)
    runs = [written(like, f"r{n}", num_images=120, chance=chance) for n in range(3)]
    runs += [written(like, "ink", num_images=2, chance=random.Random(5)), like]
    runs.sort(key=lambda run: run.id)
    runs.sort(key=lambda run: str(run.state.started), reverse=True)
    return outputs, [{**image, **_of(run)} for run in runs for image in run.images()]


def _of(run: journal.Run) -> Image:
    request = run.manifest["request"]
    return {"run_id": run.id, "experiment": request["name"], "lora": request["lora"]["id"], "base": "shapes"}


def fits(query: index.ImageQuery, image: Image) -> bool:
    asked: Image = {"run_id": query.run, "experiment": query.experiment, "lora": query.lora, "base": query.base}
    asked |= {"seed": query.seed, "status": query.status}
    return (
        all(value is None or image[name] == value for name, value in asked.items())
        and (query.prompt is None or query.prompt.casefold() in image["prompt"].casefold())
        and (query.tag is None or query.tag in image["tags"])
        and query.advice in (None, image["advice"])
        and all(image["scores"].get(name, -1) >= score for name, score in query.at_least)
        and all(image["scores"].get(name, 2) <= score for name, score in query.at_most)
    )


def ordered(query: index.ImageQuery, images: list[Image]) -> list[Image]:
    """By score, those without one last; images of one score as they stood."""
    if query.sort is None:
        return images
    name, sign = query.sort.removeprefix("-"), -1 if query.sort.startswith("-") else 1
    return sorted(images, key=lambda i: (name not in i["scores"], sign * i["scores"].get(name, 0)))


@settings(max_examples=60)
@given(query=QUERIES)
def test_a_query_finds_what_a_plain_loop_finds(several: tuple[Path, list[Image]], query: index.ImageQuery) -> None:
    outputs, every = several
    expected = ordered(query, [image for image in every if fits(query, image)])
    found = index.find_images(outputs, query)
    names = ("run_id", "key", "digest", "scores", "unscored", "status", "reason", "lora", "experiment")
    assert found.total == len(expected)
    assert [[image[n] for n in names] for image in found.images] == [
        [i[n] for n in names] for i in expected[: query.limit]
    ]


def test_images_without_a_lora_are_asked_for_by_none(several: tuple[Path, list[Image]]) -> None:
    assert index.find_images(several[0], index.ImageQuery(lora="none")).total == 0


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (index.ImageQuery(lora="emblm"), r"--lora: no image has lora 'emblm'. Did you mean 'emblem'\? Known: emblem"),
        (index.ImageQuery(run="r9"), r"--run: no image has run_id 'r9'. .*Known: demo-\w+, ink, r0, r1, r2"),
        (
            index.ImageQuery(tag="blured"),
            r"--tag: no image has tag 'blured'. Did you mean 'blurred'\? Known: blurred, cut",
        ),
        (index.ImageQuery(sort="-concpt"), r"--sort: no image has criterion 'concpt'. Did you mean 'concept'\?"),
        (
            index.ImageQuery(at_most=(("x", 1),)),
            r"--min or --max: no image has criterion 'x'. Known: background, concept",
        ),
        (index.ImageQuery(status="done"), r"--status: no image has status 'done'. Known: complete, failed, imported"),
    ],
)
def test_a_name_that_nothing_has_is_refused_with_the_known_ones(
    several: tuple[Path, list[Image]], query: index.ImageQuery, text: str
) -> None:
    with pytest.raises(Refused, match=text):
        index.find_images(several[0], query)


def test_a_digest_is_found_by_its_beginning_even_if_it_is_new(several: tuple[Path, list[Image]]) -> None:
    outputs, every = several
    for image in [image for image in every if image["digest"]][::40]:
        found = [index.where_is(outputs, image["digest"][:length]) for length in (64, 33, 8)]
        assert found == 3 * [[(image["run_id"], image["key"])]]
    new = written(journal.read_run(outputs / "runs" / "r0"), "r7", num_images=8, chance=random.Random(7))
    digests = {i["key"]: i["digest"] for i in new.images() if i["digest"]}
    assert {index.where_is(outputs, digest)[0] for digest in digests.values()} == {("r7", key) for key in digests}
    assert index.where_is(outputs, "0" * 64) == []


def test_what_came_from_outside_and_what_was_deleted_is_marked(made: Path) -> None:
    (cat,) = index.find_images(made, index.ImageQuery(status="imported")).images
    assert (cat["digest"], cat["key"], cat["prompt"], cat["imported"], cat["run_id"]) == (
        "c" * 64, "cat.png", "a cat", True, None,
    )  # fmt: skip
    deleted = [i for i in index.find_images(made, index.ImageQuery(limit=None)).images if i["deleted"]]
    assert [(image["key"], image["deleted"]) for image in deleted] == [("on-blue.000", "dull")]
    assert index.where_is(made, "c" * 64) == []
