"""Tokens are counted as transformers and the pipelines make them, and told of the prompt alone."""

from __future__ import annotations

import functools
import inspect
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.contract.folders import read_model_folder
from runner.errors import Refused
from runner.prompt import ComposedPrompt, Encoder, Section, TokenCount, load_encoder, plain_prompt, windows
from runner.prompt.vocabulary import load_tokenizer
from runner.prompt.windows import WINDOWS, Window, window
from tests import tiny


class PanicException(BaseException):
    """As pyo3 raises it."""


class Failing:
    """A tokenizer that fails at every text."""

    def __init__(self, tokenizer: Any, panics: bool) -> None:
        self._tokenizer = tokenizer
        self._error = PanicException("index out of bounds") if panics else Exception("no [UNK]")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode_batch(self, *_: Any, **__: Any) -> None:
        raise self._error


PIECES = (
    "a", "red", "STAR", "isn't", "we'll", "caf\u00e9", "cafe\u0301", "\u4e2d\u6587\u5b57", "\U0001f642", "\u00bd",
    "\u0130stanbul", "<emblem>", "(x:1.2)", "\u00a0", "\u3000", "na\u00efve", "\ufb01n", "\t", "\n\n", "1234",
    "\u00df", "\u200d", "\ufeff", "--", "a_b", "<|", "BREAK", "  ", "\r\n", "wow!!", "a!b", "kettle,",
    "<|ENDOFTEXT|>", "photo of",
)  # fmt: skip
TOKENIZERS = [(family, name) for family, names in {
    "sd1": ["tokenizer"], "sdxl": ["tokenizer", "tokenizer_2"], "sd3": ["tokenizer_3"], "flux1": ["tokenizer_2"],
    "flux2": ["tokenizer"], "flux2-klein": ["tokenizer"], "qwen-image": ["tokenizer"], "z-image": ["tokenizer"],
}.items() for name in names]  # fmt: skip
SECTIONS = st.lists(st.sampled_from(["a red dog", "glass,", "ohwx", "caf\u00e9 \U0001f642", "x", "BREAK"]), min_size=1)


def random_texts(num: int) -> list[str]:
    chosen = random.Random(0)
    return [mark.join(chosen.choices(PIECES, k=1 + n % 12)) for mark in (" ", "") for n in range(num // 2)]


@functools.cache
def encoders(family: str) -> tuple[Encoder, ...]:
    base = read_model_folder(tiny.folder(family))
    return tuple(load_encoder(name, folder, window(base.pipeline, name)) for name, folder in base.tokenizers.items())


def encoder(family: str, name: str = "tokenizer") -> Encoder:
    return next(encoder for encoder in encoders(family) if encoder.name == name)


@functools.cache
def theirs(family: str, name: str) -> Any:
    """The tokenizer as transformers loads it."""
    return getattr(tiny.pipeline(family), name)


def prompt(*parts: str, trigger: str = "", separator: str = " ") -> ComposedPrompt:
    """A prompt of sections named a, b, c ...; the trigger's places are where it stands in the text."""
    text, sections = "", []
    for name, part in zip("abcdefghij", parts, strict=False):
        text += separator if text else ""
        sections.append(Section(name, part, len(text), len(text) + len(part)))
        text += part
    at = text.find(trigger) if trigger else -1
    return ComposedPrompt("p", "", text, tuple(sections), ((at, at + len(trigger)),) if at >= 0 else ())


def count(asked: Encoder, *parts: str, trigger: str = "") -> TokenCount:
    return asked.count([prompt(*parts, trigger=trigger)])[0]


# ---- the same tokens as transformers makes


@pytest.mark.parametrize(("family", "name"), TOKENIZERS)
def test_a_folder_gives_the_ids_that_transformers_gives(family: str, name: str) -> None:
    tokenizer = theirs(family, name)
    ours, _ = load_tokenizer(tiny.folder(family) / name)
    texts = random_texts(400)
    found = [encoding.ids for encoding in ours.encode_batch(texts)]
    assert found == [tokenizer(text)["input_ids"] for text in texts]


@pytest.mark.parametrize(("family", "name"), TOKENIZERS)
def test_a_control_token_in_a_text_gives_the_ids_that_transformers_gives(family: str, name: str) -> None:
    tokenizer = theirs(family, name)
    ours, _ = load_tokenizer(tiny.folder(family) / name)
    texts = [f"a{mark}{token}{mark}b" for token in tokenizer.all_special_tokens for mark in ("", " ")]
    assert [encoding.ids for encoding in ours.encode_batch(texts)] == [tokenizer(text)["input_ids"] for text in texts]


def test_an_exclamation_mark_is_a_token_of_its_own_in_sdxls_second_encoder_and_no_control_token() -> None:
    """It is the padding there, which is matched before the vocabulary."""
    first, second = (count(encoder("sdxl", name), "wow !", trigger="!") for name in ("tokenizer", "tokenizer_2"))
    assert (first.trigger_pieces, second.trigger_pieces) == (("!</w>",), ("!",))
    assert second.controls == ()


def test_qwen_without_tokenizer_json_reads_its_added_tokens_from_either_file(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny.folder("qwen-image") / "tokenizer", folder)
    whole, _ = load_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    del config["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    listed, _ = load_tokenizer(folder)
    text = "<|im_start|>user\na dog<|im_end|>"
    assert whole.encode(text).ids == listed.encode(text).ids
    assert len(whole.encode(text).ids) < 12


def test_a_lone_sentencepiece_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}', "utf-8")
    with pytest.raises(Refused, match=r"T5Tokenizer cannot be built .*AutoTokenizer\.from_pretrained\(FOLDER\)\.save"):
        load_encoder("tokenizer_2", tmp_path, Window(512))


@pytest.mark.parametrize("limit", ["null", '"77"', "0", "-5", "NaN", "Infinity", "true"])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, limit: str) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny.folder("sd1") / "tokenizer", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    changed = {**config, "model_max_length": json.loads(limit)}
    (folder / "tokenizer_config.json").write_text(json.dumps(changed), "utf-8")
    with pytest.raises(Refused, match="has the model_max_length"):
        load_encoder("tokenizer", folder)


@pytest.mark.parametrize("panics", [False, True])
def test_a_tokenizer_that_fails_at_a_text_is_refused(tmp_path: Path, panics: bool) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny.folder("sd1") / "tokenizer", folder)
    asked = load_encoder("tokenizer", folder)
    tokenizer: Any = Failing(asked.tokenizer, panics)
    failing = replace(asked, tokenizer=tokenizer)
    with pytest.raises(Refused, match=r"tokenizer: cannot be read \((Exception|PanicException): ") as refusal:
        failing.count([plain_prompt("p", "a dog")])
    assert refusal.value.faults[0].code == "tokenizer_unreadable"


def test_words_without_a_token_for_the_unknown_are_refused(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    with pytest.raises(Refused, match=r"cannot be read \(Exception: WordLevel error"):
        load_encoder("tokenizer", tmp_path).count([plain_prompt("p", "dog")])


# ---- windows: what is written in the table is what the installed pipelines do


@pytest.mark.parametrize(
    ("pipeline", "name", "use"), [(p, n, use) for p, uses in WINDOWS.items() for n, use in uses.items()]
)
def test_a_limit_is_the_default_of_the_pipelines_call(pipeline: str, name: str, use: Window) -> None:
    import diffusers

    asked = inspect.signature(getattr(diffusers, pipeline).__call__).parameters.get("max_sequence_length")
    dropped = 34 if pipeline == "QwenImagePipeline" else 0
    assert use.limit is None if use is windows.CLIP else asked and use.limit == asked.default + dropped


def test_the_words_around_a_prompt_are_those_of_the_pipelines() -> None:
    from diffusers.pipelines.flux2 import system_messages
    from diffusers.pipelines.lumina2 import pipeline_lumina2

    pipe = tiny.pipeline("qwen-image")
    assert pipe.prompt_template_encode == windows.QWEN_IMAGE_BEFORE + "{}" + windows.QWEN_IMAGE_AFTER
    assert (pipe.prompt_template_encode_start_idx, pipe.tokenizer_max_length) == (34, 1024)
    assert windows.FLUX2_SYSTEM == system_messages.SYSTEM_MESSAGE
    source = inspect.getsource(pipeline_lumina2)
    assert f'"{windows.LUMINA2_BEFORE.removesuffix(" <Prompt Start> ")}"' in source
    assert 'system_prompt + " <Prompt Start> " + p' in source


def test_an_unknown_pipeline_uses_the_limit_and_the_special_tokens_of_its_tokenizer() -> None:
    found = count(
        load_encoder("tokenizer", tiny.folder("sd1") / "tokenizer", window("MyPipeline", "tokenizer")), "a dog"
    )
    assert (found.raw, found.overhead, found.limit) == (2, 2, 77)


# ---- where the prompt is


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(SECTIONS)
def test_sections_and_template_add_up(family: str, parts: list[str]) -> None:
    for asked in encoders(family):
        found = count(asked, *parts[:6])
        num_separators = found.raw - sum(found.sections.values())
        assert 0 <= num_separators < max(len(parts), 1)
        assert found.raw + found.overhead == found.templated == found.limit - found.headroom
        assert found.overhead == encoder(family, asked.name).overhead


@pytest.mark.parametrize(("family", "name"), TOKENIZERS)
@pytest.mark.parametrize("parts", [("ohwx dog",), ("a dog, ohwx, on red",), ("a", "(ohwx:1.2)")])
def test_the_trigger_is_found_in_every_encoder(family: str, name: str, parts: tuple[str, ...]) -> None:
    asked = encoder(family, name)
    found = count(asked, *parts, trigger="ohwx")
    pieces = "".join(found.trigger_pieces).replace("</w>", "").strip("\u0120\u2581")
    assert pieces == "ohwx"
    begin, end = found.trigger_spans[0]
    assert end - begin == len(found.trigger_pieces)
    assert found.trigger_survives()


def test_words_of_the_template_are_not_taken_for_the_prompt() -> None:
    """The prompt's own words stand in the template too."""
    found = count(encoder("qwen-image"), "the color", trigger="color")
    assert found.raw < 6
    assert found.trigger_spans[0][1] == found.raw


@pytest.mark.parametrize(("family", "name"), TOKENIZERS)
def test_what_is_lost_is_told_in_whole_words(family: str, name: str) -> None:
    asked = encoder(family, name)
    words = [f"photo{n} kettles" for n in range(400)]
    found = count(asked, " ".join(words))
    assert found.templated > found.limit
    kept = " ".join(words).removesuffix(found.lost)
    assert kept.endswith(" ") or found.lost.startswith("kettles")
    assert 0 <= found.kept[1] - count(asked, kept.strip()).raw <= 8  # no more than the half of a cut word


def test_a_word_that_is_cut_in_two_is_lost_whole() -> None:
    asked = encoder("sd1")
    room = asked.limit - asked.overhead
    found = count(asked, "dog " * (room - 1) + "xqzvw end")
    assert found.kept == (0, room)
    assert found.lost == "xqzvw end"


def test_a_comma_behind_a_kept_word_is_lost_alone() -> None:
    asked = encoder("sd1")
    room = asked.limit - asked.overhead
    assert count(asked, "dog " * (room - 1) + "fog, light").lost[-7:] == ", light"


def test_scripts_without_spaces_lose_only_what_falls_off() -> None:
    asked = encoder("sd1")
    found = count(asked, "\u4e2d" * 100)
    assert 0 < len(found.lost) < 90


def test_a_chat_template_that_is_cut_at_its_end_loses_no_words() -> None:
    asked = encoder("z-image")
    word = count(asked, "dog dog").raw - count(asked, "dog").raw
    found = count(asked, "dog" + " dog" * ((asked.limit - asked.overhead) // word))
    assert -4 <= found.headroom < 0
    assert found.lost == ""


def test_a_tokenizer_that_cuts_its_front_loses_the_first_words(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny.folder("sd1") / "tokenizer", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "truncation_side": "left"}), "utf-8")
    asked = load_encoder("tokenizer", folder)
    found = count(asked, "ohwx " + "dog " * 75, trigger="ohwx")
    assert (found.lost, found.trigger_survives()) == ("ohwx", False)
    from transformers import CLIPTokenizer

    other: Any = CLIPTokenizer.from_pretrained(folder)
    text = "ohwx" + " dog" * 75
    assert other.decode(other(text, truncation=True, max_length=77)["input_ids"][1:3]).strip() == "dog dog"


# ---- single or pieces, rare or common


@pytest.mark.parametrize(
    ("word", "kind", "rarity"),
    [("dog", "single", "common"), ("ohwx", "single", "rare"), ("xqzv", "pieces", "rare"), ("<dog>", "pieces", "rare")],
)
def test_a_trigger_says_whether_it_is_one_token_and_an_ordinary_word(word: str, kind: str, rarity: str) -> None:
    facts = count(encoder("sd1"), f"a {word} here", trigger=word).as_dict()
    assert (facts["trigger_kind"], facts["trigger_rarity"], facts["trigger_survives"]) == (kind, rarity, True)


def test_a_trigger_is_judged_in_each_encoder() -> None:
    clip, t5 = encoder("flux1", "tokenizer"), encoder("flux1", "tokenizer_2")
    kinds = [count(asked, "a photo of ohwx", trigger="ohwx").as_dict()["trigger_kind"] for asked in (clip, t5)]
    assert kinds == ["single", "pieces"]


def test_a_piece_of_a_longer_token_is_not_single() -> None:
    facts = count(encoder("sd1"), "a photo", trigger="hot").as_dict()
    assert (facts["trigger_pieces"], facts["trigger_kind"]) == (["photo</w>"], "pieces")


def test_a_prompt_without_trigger_says_nothing_about_it() -> None:
    facts = count(encoder("sd1"), "a dog").as_dict()
    assert (facts["trigger_kind"], facts["trigger_rarity"], facts["trigger_survives"]) == (None, None, None)


# ---- what the pipeline would change


def test_a_prompt_that_flux_2_would_change_is_refused() -> None:
    with pytest.raises(Refused, match=r"prompt\.items \(p\): is changed by the pipeline .* Write it as 'a  dog'"):
        count(encoder("flux2"), "a [IMG] dog")


def test_escaped_letters_that_wan_would_unescape_are_refused() -> None:
    asked = load_encoder("tokenizer", tiny.folder("sd3") / "tokenizer_3", window("WanPipeline", "tokenizer"))
    assert count(asked, "salt & pepper").raw > 0
    with pytest.raises(Refused, match="Write it as 'salt & pepper'"):
        count(asked, "salt &amp; pepper")


def test_a_negative_prompt_stands_without_lumina_2s_system_prompt() -> None:
    asked = load_encoder("tokenizer", tiny.folder("z-image") / "tokenizer", window("Lumina2Pipeline", "tokenizer"))
    (positive,) = asked.count([prompt("a dog")])
    (negative,) = asked.count([plain_prompt("negative_prompt", "a dog")], negative=True)
    assert (positive.overhead > 20, negative.overhead) == (True, 0)


@pytest.mark.parametrize(
    ("family", "word"), [("sd1", "<|endoftext|>"), ("flux2", "[INST]"), ("z-image", "<|im_end|>"), ("sd3", "</s>")]
)
def test_a_control_token_in_a_prompt_is_named(family: str, word: str) -> None:
    asked = encoder(family, "tokenizer_3" if family == "sd3" else "tokenizer")
    assert count(asked, f"a {word} dog").controls == (word,)
    assert count(asked, "a dog").controls == ()


# ---- many at once


def test_a_batch_counts_like_prompt_by_prompt() -> None:
    texts = [text for text in random_texts(1300) if text.strip()]
    asked = encoder("z-image")
    assert len(texts) > 1000
    together = asked.count([prompt(text.strip()) for text in texts])
    assert together[::97] == [count(asked, text.strip()) for text in texts[::97]]
