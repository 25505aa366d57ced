"""The CLIP critic: the scores it always gave, in the same words as any other critic; and what it cannot do, it says."""

from __future__ import annotations

import functools
import io
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner import builtin, store
from runner.builtin import world
from runner.config.critic import ClipQuestion, ClipRuntime, Criterion, CriticProfile
from runner.contract.folders import weights_digest
from runner.critic import answer, ask, exam, schema
from runner.critic.backends import clip
from runner.critic.backends.clip import ClipCritic
from runner.critic.question import Picture, Question, Unanswered
from runner.errors import Failed
from runner.plan import PromptPlan
from runner.store import Store
from runner.timing import Clock
from runner.worker import Bench
from tests import fakes

WEIGHTS = builtin.package_dir() / "shapes_clip"
HEART = world.Scene("heart", "purple", "yellow")
RING = world.Scene("ring", "white", "pink", "small", "left")


@functools.cache
def profile() -> CriticProfile:
    shipped = fakes.request().critic
    assert shipped is not None
    return shipped


def bench(folder: Path | str, place: Path, asked: CriticProfile | None = None) -> Bench:
    """A bench with nothing on it but the request."""
    runtime = ClipRuntime(id="clip", backend="clip", path=str(folder), sha256=None)
    request = fakes.request().model_copy(update={"critic": asked or profile(), "critic_runtime": runtime})
    return Bench(
        request=request, facts=None, store=Store(place / "objects"), clock=Clock(), device="cpu", images={},
        note=lambda *words, **facts: None, status=lambda *words: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> ClipCritic:
    return clip.load_clip(bench("builtin:shapes_clip", tmp_path_factory.mktemp("clip")))


def prompt(subject: str, background: str = "", *, triggered: bool = False) -> PromptPlan:
    sections = {"subject": subject, "background": background}
    return PromptPlan("one", "one", f"{subject} {background}", sections, triggered)


def picture(image: Image.Image) -> Picture:
    data = io.BytesIO()
    image.save(data, format="png")
    return Picture(store.digest(data.getvalue()), data.getvalue())


def drawn(scene: world.Scene = HEART, seed: int = 3) -> Picture:
    return picture(world.draw(scene, random.Random(seed)))


def question(of: PromptPlan, image: Picture) -> Question:
    return Question(profile(), of, (image,), schema.answer_schema(profile(), continuous=True))


def said(critic: ClipCritic, of: PromptPlan, image: Picture) -> dict[str, Any]:
    asked = question(of, image)
    return dict(json.loads(critic.ask(asked, ask.first_attempt(asked)).text))


def scores(value: dict[str, Any]) -> dict[str, float]:
    return {name: one["score"] for name, one in value["criteria"].items() if one["score"] is not None}


# ---- what it says of real pictures


@pytest.mark.parametrize(
    ("image", "of", "known"),
    [
        (drawn(), prompt("a purple heart", "on a yellow background"),
         {"shape": 0.999358, "colour": 0.996566, "background": 0.999986}),
        (drawn(RING, 4), prompt("a white diamond", "on a purple background"),
         {"shape": 0.0, "colour": 0.890331, "background": 2e-06}),
        (picture(world.emblem("blue", random.Random(5))), prompt("a <emblem>", "on a blue background", triggered=True),
         {"background": 0.999665, "concept": 0.807013}),
    ],
    ids=["right", "wrong", "emblem"],
)  # fmt: skip
def test_the_scores_are_what_they_were_before_there_were_other_critics(
    critic: ClipCritic, image: Picture, of: PromptPlan, known: dict[str, float]
) -> None:
    assert scores(said(critic, of, image)) == pytest.approx(known, abs=1e-4)


def test_every_answer_passes_the_checks_of_any_critics_answer(critic: ClipCritic) -> None:
    rng = random.Random(11)
    scenes = [world.sample_scene(rng) for _ in range(12)]
    asked = [
        question(prompt(f"a {other.colour} {other.shape}", f"on a {other.background} background"), drawn(scene))
        for scene, other in zip(scenes, scenes[1:] + scenes[:1], strict=True)
    ]
    assert all(ask.judge(critic, one).answer is not None for one in asked)


def test_a_right_picture_has_no_findings_and_high_confidence(critic: ClipCritic) -> None:
    value = said(critic, prompt("a purple heart", "on a yellow background"), drawn())
    assert (value["evidence"], value["confidence"]) == ([], "high")
    assert value["criteria"]["colour"]["reason"].startswith("asked for a purple shape (1.00); next is a ")


def test_a_wrong_picture_is_told_by_tag_with_what_it_shows_instead(critic: ClipCritic) -> None:
    value = said(critic, prompt("a red heart", "on a yellow background"), drawn())
    (finding,) = value["evidence"]
    assert {name: finding[name] for name in ("id", "tag", "box", "severity")} == {
        "id": "e1", "tag": "wrong_colour", "box": None, "severity": "major",
    }  # fmt: skip
    assert finding["what"] == "asked for a red shape; most like a purple shape (1.00 against 0.00)"
    assert value["criteria"]["colour"]["evidence"] == ["e1"]


def test_what_the_prompt_does_not_ask_for_has_no_score(critic: ClipCritic) -> None:
    value = said(critic, prompt("a purple thing"), drawn())
    assert set(scores(value)) == {"colour"}
    assert value["criteria"]["shape"] == {"evidence": [], "reason": "the prompt does not ask for it", "score": None}


def test_the_concept_is_judged_only_where_the_trigger_stands(critic: ClipCritic) -> None:
    value = said(critic, prompt("a <emblem>", "on a yellow background", triggered=True), drawn())
    assert set(scores(value)) == {"background", "concept"}
    assert [(found["tag"], found["what"][:36]) for found in value["evidence"]] == [
        ("concept_missing", "likeness to the reference pictures 0")
    ]


def test_similarities_with_every_label_stand_beside_the_answer(critic: ClipCritic) -> None:
    asked = question(prompt("a purple heart"), drawn())
    raw = critic.ask(asked, ask.first_attempt(asked)).raw
    assert set(raw) == {"temperature", "similarities"}
    assert {name: len(values) for name, values in raw["similarities"].items()} == {"shape": 8, "colour": 10}
    assert max(raw["similarities"]["shape"], key=raw["similarities"]["shape"].get) == "heart"


def test_the_same_picture_gets_the_same_reply_bytes(critic: ClipCritic) -> None:
    asked = question(prompt("a purple heart", "on a yellow background"), drawn())
    first, again = (critic.ask(asked, ask.first_attempt(asked)) for _ in range(2))
    assert (first.text, store.canonical(dict(first.raw))) == (again.text, store.canonical(dict(again.raw)))


def test_the_shipped_critic_passes_its_exam_every_time_with_the_same_record(critic: ClipCritic) -> None:
    records = [exam.take(critic, profile(), ask.judge).as_dict() for _ in range(3)]
    assert records[0]["passed"], records[0]
    assert records[0] == records[1] == records[2]


def test_its_identity_is_its_weights_and_libraries(critic: ClipCritic) -> None:
    assert critic.identity["weights"] == weights_digest(WEIGHTS)
    assert set(critic.identity) == {"backend", "weights", "torch", "transformers"}


# ---- what it cannot do


def test_bytes_that_do_not_decode_are_not_seen_and_the_reason_is_the_same_text(critic: ClipCritic) -> None:
    for _ in range(2):
        with pytest.raises(Unanswered, match=r"^image_not_seen: does not decode \(UnidentifiedImageError\)$"):
            said(critic, prompt("a purple heart"), Picture("0" * 64, b"not a picture"))


def test_too_little_memory_is_a_failure_of_this_image(critic: ClipCritic) -> None:
    def greedy(images: Sequence[Any], **how: Any) -> Any:
        raise MemoryError("cannot allocate 6 GiB")

    short = _with(critic, processor=greedy)
    with pytest.raises(Unanswered, match=r"^oom: out of memory: cannot allocate 6 GiB$"):
        said(short, prompt("a purple heart"), drawn())


def test_a_bug_is_no_failure_of_an_image(critic: ClipCritic) -> None:
    def broken(images: Sequence[Any], **how: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        said(_with(critic, processor=broken), prompt("a purple heart"), drawn())


def test_a_question_that_is_stopped_has_no_answer_and_the_next_one_has(critic: ClipCritic) -> None:
    def stopping(images: Sequence[Any], **how: Any) -> Any:
        stopped.cancel()
        return critic.processor(images, **how)

    stopped = _with(critic, processor=stopping)
    with pytest.raises(Unanswered, match=r"^cancelled: was stopped$"):
        said(stopped, prompt("a purple heart"), drawn())
    stopped.processor = critic.processor
    assert said(stopped, prompt("a purple heart"), drawn())


def test_one_that_is_closed_says_so(critic: ClipCritic) -> None:
    closed = _with(critic)
    closed.close()
    with pytest.raises(Unanswered, match=r"^runtime_down: the model was released$"):
        said(closed, prompt("a purple heart"), drawn())


def test_another_profile_than_the_one_it_was_loaded_for_is_a_bug(critic: ClipCritic) -> None:
    fewer = profile().model_copy(update={"criteria": profile().criteria[:2]})
    asked = Question(fewer, prompt("a purple heart"), (drawn(),), {})
    with pytest.raises(AssertionError, match="what was embedded is another profile's"):
        critic.ask(asked, ask.first_attempt(asked))


def test_weights_that_are_cut_off_fail_with_their_path(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "critic")
    (folder / "model.safetensors").write_bytes((WEIGHTS / "model.safetensors").read_bytes()[:-1000])
    with pytest.raises(Failed, match=rf"critic_runtime\.path: {folder} does not load as a CLIP model"):
        clip.load_clip(bench(folder, tmp_path))


def test_weights_that_lack_a_tensor_fail_with_its_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(WEIGHTS, tmp_path / "critic")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Failed, match=r"has no weights for 1 tensors \(first visual_projection\.weight\)"):
        clip.load_clip(bench(folder, tmp_path))


# ---- from similarities to an answer, without a model


def colour() -> tuple[Criterion, ClipQuestion]:
    criterion = profile().criteria[1]
    assert criterion.clip is not None
    return criterion, criterion.clip


def likeness(of: PromptPlan, **values: float) -> clip.Likeness:
    """What a picture with these similarities, and none to other labels, is taken for."""
    criterion, asked = colour()
    found = clip.likeness(criterion, [values.get(label, 0.0) for label in asked.labels], 40.0, of)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("values", "confidence"),
    [({"red": 0.5}, "high"), ({"red": 0.5, "pink": 0.48}, "medium"), ({"red": 0.5, "pink": 0.5}, "low")],
)
def test_confidence_is_how_far_apart_the_best_two_lie(values: dict[str, float], confidence: str) -> None:
    told = {"colour": likeness(prompt("a red shape"), **values)}
    assert clip.answer(profile(), told)["confidence"] == confidence


def test_a_likely_answer_that_is_not_likely_enough_names_what_comes_next() -> None:
    close = likeness(prompt("a red shape"), red=0.5, pink=0.495, purple=0.49)
    assert close.what == "asked for a red shape (0.40); next is a pink shape (0.33)"
    assert clip.answer(profile(), {"colour": close})["evidence"][0]["what"] == close.what


def test_an_answer_without_boxes_has_none_at_all() -> None:
    without = _profile(evidence={"boxes": "none"})
    value = clip.answer(without, {"colour": likeness(prompt("a red shape"), blue=0.5)})
    assert "box" not in value["evidence"][0]
    answer.matching(json.dumps(value), schema.answer_schema(without, continuous=True))


def test_scores_lie_on_the_scale_of_the_profile() -> None:
    wide = _profile(scale={"min": 1.0, "max": 5.0, "levels": (1.0, 2.0, 3.0, 4.0, 5.0)})
    value = clip.answer(wide, {"colour": likeness(prompt("a red shape"), red=0.5, pink=0.5)})
    assert value["criteria"]["colour"]["score"] == pytest.approx(3.0, abs=1e-3)


def test_texts_are_as_long_and_as_plain_as_the_schema_wants_them() -> None:
    short = _profile(evidence={"max_chars": 24})
    strange = clip.Likeness(*colour(), share=0.1, what='asked for a "żółty" \\ shape of any kind', margin=0.5)
    value = clip.answer(short, {"colour": strange})
    assert value["evidence"][0]["what"] == "asked for a ????ty? ? sh"
    assert answer.read(json.dumps(value), short, schema.answer_schema(short, continuous=True))


@pytest.mark.parametrize(
    ("of", "asked"),
    [
        (prompt("a red shape"), "red"),
        (prompt("a Red shape"), "red"),
        (prompt("a red and blue shape"), None),
        (prompt("a redder shape"), None),
        (PromptPlan("one", "one", "a red shape on a blue background", {}, triggered=False), "red"),
        (PromptPlan("one", "one", "a thing on a blue background", {}, triggered=False), None),
    ],
)
def test_the_asked_label_is_the_one_that_its_section_names(of: PromptPlan, asked: str | None) -> None:
    assert clip.asked_label(colour()[1], of) == asked


def _with(critic: ClipCritic, **changes: Any) -> ClipCritic:
    """The same loaded model in a critic of its own."""
    own = {"model": critic.model, "processor": critic.processor, "embedded": critic.embedded, **changes}
    return ClipCritic(**own, profile=critic.profile, identity=critic.identity, device=critic.device)


def _profile(**changes: dict[str, Any]) -> CriticProfile:
    return profile().model_copy(
        update={name: getattr(profile(), name).model_copy(update=change) for name, change in changes.items()}
    )
