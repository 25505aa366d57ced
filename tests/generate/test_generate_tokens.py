"""Every encoder of every family is given exactly the tokens that were counted, template and all."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from runner import contract
from runner.contract.folders import read_model_folder
from runner.errors import Failed
from runner.generate.encode import EncodeOnce, expected_tokens, joined, num_tokens
from runner.prompt import ComposedPrompt, Encoder, Section, TokenCount, load_encoder, plain_prompt, window
from runner.timing import Clock
from tests import fakes, tiny

LONG = "a photo of a small red dog beside a wooden chair, " * 60
SHORT, TRIGGERED, NEGATIVE = "a red dog", "a photo of ohwx on a marble table", "dark text, no light"
TEXTS = (SHORT, TRIGGERED, LONG.strip())


def encoders(family: str) -> list[Encoder]:
    base = read_model_folder(tiny.folder(family))
    return [load_encoder(name, folder, window(base.pipeline, name)) for name, folder in base.tokenizers.items()]


def prompt(text: str) -> ComposedPrompt:
    at = text.find("ohwx")
    slots = ((at, at + 4),) if at >= 0 else ()
    return ComposedPrompt("p", "", text, (Section("subject", text, 0, len(text)),), slots)


@functools.cache
def counted(family: str) -> dict[tuple[str, str], TokenCount]:
    found: dict[tuple[str, str], TokenCount] = {}
    for encoder in encoders(family):
        counts = encoder.count([prompt(text) for text in TEXTS])
        counts += encoder.count([plain_prompt("negative_prompt", NEGATIVE)], negative=True)
        found |= {(encoder.name, text): count for text, count in zip((*TEXTS, NEGATIVE), counts, strict=True)}
    return found


@functools.cache
def _loaded(family: str) -> Any:
    return tiny.load(family)


def plain(family: str) -> Any:
    """The tiny pipeline as it comes, loaded once."""
    pipe = _loaded(family)
    vars(pipe).pop("encode_prompt", None)
    return pipe


def watched(family: str, expected: Mapping[tuple[str, str], int]) -> Any:
    """The tiny pipeline, whose encoders must be given the expected numbers of tokens."""
    pipe = plain(family)
    pipe.encode_prompt = EncodeOnce(pipe, Clock(), expected)
    return pipe


def drawn(pipe: Any, texts: Sequence[str], negative: str = "", **more: Any) -> Any:
    """One step for every text, as floats; image n has seed n."""
    import torch

    seeds = [torch.Generator().manual_seed(number) for number in range(len(texts))]
    no = {"negative_prompt": [negative] * len(texts)} if negative else {}
    size: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "np"}
    return pipe(prompt=list(texts), generator=seeds, **size, **no, **more).images


GUIDED: dict[str, dict[str, Any]] = {  # how a family is told to use a negative prompt; the others have none
    "sd1": {}, "sdxl": {}, "sd3": {}, "flux1": {"true_cfg_scale": 2.0}, "qwen-image": {}, "z-image": {},
}  # fmt: skip


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_encoder_sees_what_was_counted(family: str) -> None:
    expected = {key: count.seen for key, count in counted(family).items()}
    pipe = watched(family, expected)
    assert drawn(pipe, TEXTS).shape == (3, 32, 32, 3)
    assert {name for name, _ in expected} == {name for name in pipe.components if name.startswith("tokenizer")}


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("text", TEXTS, ids=["short", "trigger", "long"])
def test_another_count_in_any_encoder_fails_the_run(family: str, text: str) -> None:
    right = {key: count.seen for key, count in counted(family).items()}
    for key, count in right.items():
        if key[1] == text:
            with pytest.raises(Failed, match=f"{key[0]} gave its encoder {count} tokens; {count - 1} were") as failure:
                drawn(watched(family, {**right, key: count - 1}), [text])
            assert failure.value.faults[0].code == "tokens_differ"


@pytest.mark.parametrize(
    ("pipeline", "family", "number"),
    [("ChromaPipeline", "flux1", "_2"), ("AuraFlowPipeline", "flux1", "_2"), ("WanPipeline", "flux1", "_2"),
     ("Lumina2Pipeline", "z-image", "")],
)  # fmt: skip
def test_pipelines_that_have_no_tiny_one_see_what_was_counted(pipeline: str, family: str, number: str) -> None:
    """Their own encode_prompt on the text encoder of another; Lumina2's own encoder is a chat model as well."""
    import diffusers

    lent = plain(family)
    parts = {"text_encoder": getattr(lent, f"text_encoder{number}"), "tokenizer": getattr(lent, f"tokenizer{number}")}
    pipe = getattr(diffusers, pipeline)(vae=None, scheduler=None, transformer=None, **parts)
    folder = tiny.folder(family) / f"tokenizer{number}"
    asked = load_encoder("tokenizer", folder, window(pipeline, "tokenizer"))
    counts = asked.count([prompt(text) for text in TEXTS])
    counts += asked.count([plain_prompt("negative_prompt", NEGATIVE)], negative=True)
    right = {("tokenizer", text): count.seen for text, count in zip((*TEXTS, NEGATIVE), counts, strict=True)}
    asking = {"negative_prompt": [NEGATIVE] * 3, "max_sequence_length": asked.limit}  # as __call__ hands it on
    EncodeOnce(pipe, Clock(), right)(list(TEXTS), **asking)
    for text in (*TEXTS, NEGATIVE):
        wrong = {**right, ("tokenizer", text): right["tokenizer", text] + 1}
        with pytest.raises(Failed, match="tokenizer gave its encoder"):
            EncodeOnce(pipe, Clock(), wrong)(list(TEXTS), **asking)


@pytest.mark.parametrize("family", GUIDED)
def test_a_negative_prompt_is_counted_as_its_encoder_sees_it(family: str) -> None:
    right = {key: count.seen for key, count in counted(family).items()}
    drawn(watched(family, right), [SHORT], NEGATIVE, **GUIDED[family])
    wrong = {key: count + (key[1] == NEGATIVE) for key, count in right.items()}
    with pytest.raises(Failed, match=f"tokenizer gave its encoder .* were counted for '{NEGATIVE}'"):
        drawn(watched(family, wrong), [SHORT], NEGATIVE, **GUIDED[family])


def test_the_negative_prompt_of_a_request_is_expected_like_a_prompt() -> None:
    asked = {"generate.negative_prompt": "a blurry star", "generate.guidance_scale": 4}
    agreed = contract.check(fakes.request(asked, "demo_base"))
    expected = expected_tokens(agreed)
    assert len(expected) == len(agreed.prompts) + 1
    assert expected["tokenizer", "a blurry star"] == agreed.tokens[-1].templated


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_long_prompt_fills_the_window_and_says_what_it_loses(family: str) -> None:
    for (name, text), count in counted(family).items():
        over = count.templated > count.limit
        assert over == (text == TEXTS[2]), (name, text)
        assert count.raw + count.overhead == count.templated
        assert bool(count.lost) == over
        assert TEXTS[2].endswith(count.lost)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_image_does_not_depend_on_its_batch_by_more_than_the_last_bits(family: str) -> None:
    pipe = watched(family, {})
    alone, together = drawn(pipe, [SHORT, SHORT])[0], drawn(pipe, [SHORT, TRIGGERED])[0]
    assert abs(alone - together).max() < 1e-4


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_batch_encoded_prompt_by_prompt_is_what_the_pipeline_makes_of_it_itself(family: str) -> None:
    assert abs(drawn(plain(family), TEXTS[:2]) - drawn(watched(family, {}), TEXTS[:2])).max() < 1e-4


@pytest.mark.parametrize(("family", "num"), [("sdxl", 1), ("flux2-klein", 2), ("qwen-image", 1)])
def test_each_prompt_is_encoded_once_for_all_batches_in_a_row(family: str, num: int) -> None:
    """FLUX.2 [klein] guides with an empty prompt of its own, in a second call per batch."""
    pipe = watched(family, {})
    rows: list[int] = []
    hook = pipe.text_encoder.register_forward_pre_hook(lambda module, args: rows.append(1))
    for _ in range(3):
        drawn(pipe, [SHORT, SHORT])
    hook.remove()
    assert len(rows) == num


@pytest.mark.parametrize(
    ("ids", "padding", "end", "count"),
    [
        ([0, 5, 6, 1, 9, 9], 9, 1, 4),  # T5: padding of its own
        ([0, 5, 1, 1, 1, 1], 1, 1, 3),  # CLIP: padded with the end
        ([0, 5, 9, 1, 9, 9], 9, 1, 4),  # a prompt that ends with the padding's letter
        ([0, 5, 6, 7, 8, 1], 1, 1, 6),  # full
        ([0, 5, 6, 7, 8, 1], None, 1, 6),
    ],
)
def test_tokens_without_a_mask_are_counted_to_their_end(
    ids: list[int], padding: int | None, end: int, count: int
) -> None:
    assert num_tokens(ids, padding, end) == count


def test_embeddings_of_different_lengths_are_padded_and_masked() -> None:
    import torch

    short, long = torch.ones(1, 2, 3), torch.ones(1, 4, 3)
    embeddings, mask, ids = joined([(short, None, torch.zeros(7, 3)), (long, None, torch.zeros(7, 3))])
    assert embeddings.shape == (2, 4, 3)
    assert embeddings[0].sum() == 6
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert ids.shape == (7, 3)


def test_embeddings_of_one_length_have_no_mask() -> None:
    import torch

    embeddings, mask = joined([(torch.ones(1, 2, 3), None)] * 2)
    assert (embeddings.shape, mask) == ((2, 2, 3), None)
