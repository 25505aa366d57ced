"""A vision-language model in this process: what it says has the schema's form, is its own, and ends when it should."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from runner.config.critic import CriticProfile, CriticText, TransformersRuntime
from runner.critic import schema
from runner.critic.backends import checkpoint, decoding, in_process
from runner.critic.backends.in_process import InProcessCritic, load_transformers
from runner.critic.question import Attempt, Picture, Question, Reply, Unanswered
from runner.errors import Failed
from runner.plan import PromptPlan
from runner.store import Store
from runner.timing import Clock
from runner.worker import Bench
from tests import fakes
from tests.critic import tiny_vlm

RED, GREEN = (220, 30, 30), (20, 200, 40)
NO_TORCHVISION = importlib.util.find_spec("torchvision") is None


def profile(num_criteria: int = 2, *, max_items: int = 2, max_chars: int = 4, **changes: Any) -> CriticProfile:
    """The shipped profile with other criteria and few words: prompts and replies of a hundred tokens."""
    shipped = fakes.request().critic
    assert shipped is not None
    criteria = tuple(shipped.criteria[0].model_copy(update={"id": f"c{number}"}) for number in range(num_criteria))
    evidence = shipped.evidence.model_copy(update={"max_items": max_items, "max_chars": max_chars})
    text = CriticText(system="Judge {{ criteria | length }} criteria.", user="{{ prompt }}", example="{{ prompt }}")
    return shipped.model_copy(update={"criteria": criteria, "evidence": evidence, "text": text, **changes})


def picture(colour: tuple[int, int, int] = RED) -> Picture:
    from PIL import Image

    png = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(png, format="png")
    return Picture("0" * 64, png.getvalue())


def question(judged: CriticProfile | None = None, *, text: str = "a red circle", **changes: Any) -> Question:
    judged = judged or profile()
    prompt = PromptPlan("one", "one", text, {"subject": text}, triggered=False)
    plain = {"images": (picture(),), "schema": schema.answer_schema(judged), **changes}
    return Question(judged, prompt, **plain)


def attempt(**changes: Any) -> Attempt:
    plain = {"max_tokens": 1500, "seed": 1, "temperature": 0.0, "top_p": 1.0, "thinking": False, "timeout_s": 600.0}
    return Attempt(**{**plain, **changes})


SHORT = attempt(max_tokens=40)
SAMPLED = {"temperature": 1.0, "top_p": 0.9}


def bench(folder: Path, place: Path, judged: CriticProfile | None = None, **changes: Any) -> Bench:
    """A bench with a model folder as its critic; nothing of it is written down."""
    plain = {"id": "tiny", "backend": "transformers", "path": str(folder), "sha256": None, "dtype": "float32"}
    runtime = TransformersRuntime(**{**plain, "context": tiny_vlm.CONTEXT, **changes})
    request = fakes.request().model_copy(update={"critic": judged or profile(), "critic_runtime": runtime})
    nothing = lambda *words, **facts: None  # noqa: E731  # a value, used twice
    return Bench(request, None, Store(place), Clock(), "cpu", {}, nothing, nothing)


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessCritic]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads that share a core with other tests wait for each other
    loaded = load_transformers(bench(tiny_vlm.folder(), tmp_path_factory.mktemp("objects")))
    yield loaded
    loaded.close()
    torch.set_num_threads(before)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A model folder of this test's own, to be damaged."""
    return Path(shutil.copytree(tiny_vlm.folder(), tmp_path / "model"))


def unanswered(critic: InProcessCritic, asked: Question, how: Attempt) -> tuple[str, str]:
    with pytest.raises(Unanswered) as said:
        critic.ask(asked, how)
    return said.value.failure, said.value.detail


def refused(folder: Path, place: Path, judged: CriticProfile | None = None, **changes: Any) -> tuple[str, str]:
    with pytest.raises(Failed) as said:
        load_transformers(bench(folder, place, judged, **changes))
    fault = said.value.faults[0]
    return fault.code, f"{fault.where}: {fault.what}. {fault.fix}"


def matches(reply: Reply, asked: Question) -> bool:
    jsonschema.Draft202012Validator(dict(asked.schema)).validate(json.loads(reply.text))
    return reply.finish == "stop"


def edit(path: Path, changes: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


# ---- what it says


@pytest.mark.parametrize(("num_criteria", "how"), [(4, {}), (2, SAMPLED), (10, SAMPLED)])
def test_every_reply_has_the_form_of_its_schema(
    critic: InProcessCritic, num_criteria: int, how: Mapping[str, Any]
) -> None:
    asked = question(profile(num_criteria))
    assert matches(critic.ask(asked, attempt(**how)), asked)


@pytest.mark.slow
@pytest.mark.parametrize("num_criteria", [4, 10])
@pytest.mark.parametrize("seed", range(10))
def test_every_reply_has_the_form_of_its_schema_at_many_seeds(
    critic: InProcessCritic, num_criteria: int, seed: int
) -> None:
    asked = question(profile(num_criteria, max_items=6, max_chars=60))
    assert matches(critic.ask(asked, attempt(max_tokens=4000, temperature=1.3, seed=seed)), asked)


def test_a_pair_of_images_is_answered_in_the_form_of_pairs(critic: InProcessCritic) -> None:
    asked = question(profile(mode="pairwise"), images=(picture(RED), picture(GREEN)))
    reply = critic.ask(asked, attempt())
    assert matches(reply, asked) and json.loads(reply.text)["winner"] in schema.WINNERS


def test_the_canary_is_said_by_a_model_that_knows_nothing_of_it(critic: InProcessCritic) -> None:
    assert critic.ask(question(schema=schema.canary_schema()), attempt()).text == f'{{"canary":"{schema.CANARY}"}}'


def test_the_same_question_gets_the_same_reply(critic: InProcessCritic) -> None:
    replies = [critic.ask(question(), attempt(max_tokens=40, seed=seed)).text for seed in (1, 2)]
    assert replies[0] == replies[1], "a seed means nothing at temperature 0"


def test_the_seed_decides_a_sampled_reply_and_nothing_else_does(critic: InProcessCritic) -> None:
    how = [attempt(temperature=1.0, max_tokens=40, seed=seed) for seed in (7, 7, 8)]
    first, again, other = (critic.ask(question(), one).text for one in how)
    assert first == again != other


def test_another_picture_is_answered_otherwise(critic: InProcessCritic) -> None:
    red, green = (critic.ask(question(images=(picture(one),)), SHORT).text for one in (RED, GREEN))
    assert red != green


def test_the_prompt_is_read(critic: InProcessCritic) -> None:
    assert critic.ask(question(), SHORT).text != critic.ask(question(text="a dog"), SHORT).text


def test_nobody_elses_chance_is_disturbed(critic: InProcessCritic) -> None:
    import torch

    before = torch.get_rng_state()
    critic.ask(question(), attempt(temperature=1.0, max_tokens=20))
    assert torch.equal(before, torch.get_rng_state())


def test_tokens_and_the_time_to_the_first_one_are_counted(critic: InProcessCritic) -> None:
    reply, num_patches = critic.ask(question(), attempt(max_tokens=9)), (tiny_vlm.IMAGE_PX // tiny_vlm.PATCH_PX) ** 2
    assert reply.usage["completion_tokens"] == 9 and reply.usage["prompt_tokens"] > num_patches
    assert reply.first_token_s is not None and reply.first_token_s > 0


def test_control_tokens_in_a_text_are_only_text(critic: InProcessCritic) -> None:
    assert critic.loaded is not None
    chats = [
        [{"role": "user", "content": [{"type": "text", "text": t}]}] for t in (".", "<|im_end|><image><|im_start|>")
    ]
    sent = [in_process._inputs(critic.loaded, chat, thinking=False)["input_ids"][0].tolist() for chat in chats]
    specials = set(critic.loaded.processor.tokenizer.all_special_ids)
    plain, marked = ([token for token in ids if token in specials] for ids in sent)
    assert plain == marked and len(sent[1]) > len(sent[0])


# ---- when it ends


def test_a_reply_without_room_is_cut_and_says_so(critic: InProcessCritic) -> None:
    reply = critic.ask(question(), attempt(max_tokens=20))
    assert (reply.finish, reply.usage["completion_tokens"]) == ("length", 20)


def test_a_reply_that_takes_too_long_is_given_up(critic: InProcessCritic) -> None:
    failure = unanswered(critic, question(), attempt(timeout_s=1e-6))
    assert failure == ("timeout", "no reply in 1e-06 s")


def test_a_reply_under_way_can_be_cancelled_and_the_next_one_is_not(critic: InProcessCritic) -> None:
    done = threading.Event()

    def cancel_until_done() -> None:
        while not done.wait(0.01):
            critic.cancel()

    canceller = threading.Thread(target=cancel_until_done)
    canceller.start()
    try:
        assert unanswered(critic, question(profile(10)), attempt())[0] == "cancelled"
    finally:
        done.set()
        canceller.join()
    assert critic.ask(question(), attempt(max_tokens=5)).finish == "length"


def test_a_request_that_does_not_fit_is_refused_with_the_numbers(critic: InProcessCritic) -> None:
    failure, detail = unanswered(critic, question(), attempt(max_tokens=tiny_vlm.CONTEXT))
    assert failure == "bad_request" and "8192 of reply do not fit in critic_runtime.context=8192" in detail


def test_bytes_that_are_no_picture_are_not_seen(critic: InProcessCritic) -> None:
    asked = question(images=(Picture("0" * 64, b"not a picture"),))
    assert unanswered(critic, asked, attempt())[0] == "image_not_seen"


def test_a_schema_beyond_the_grammar_is_refused_by_name(critic: InProcessCritic) -> None:
    said = unanswered(critic, question(schema={"type": "array", "uniqueItems": True}), attempt())
    assert said == ("bad_request", 'the schema cannot be enforced: Unimplemented keys: ["uniqueItems"]')


def test_what_the_grammar_has_no_word_for_is_named(critic: InProcessCritic) -> None:
    assert critic.loaded is not None
    why_not = [
        decoding.why_not(one, critic.loaded.vocabulary)
        for one in ({"type": "array", "uniqueItems": True}, schema.canary_schema())
    ]
    assert why_not == ['Unimplemented keys: ["uniqueItems"]', None]


def test_a_closed_critic_says_nothing_more(critic: InProcessCritic) -> None:
    other = dataclasses.replace(critic)
    other.close()
    other.close()
    assert unanswered(other, question(), attempt()) == ("runtime_down", "the model was released")


@dataclasses.dataclass
class Broken:
    """A model that raises when it is asked."""

    error: Exception
    device: str = "cpu"
    dtype: Any = None

    def generate(self, **inputs: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("CUDA out of memory"), ("oom", "MemoryError in the model: CUDA out of memory")),
        (ValueError("at 0x7f31 in /srv/x.py"), ("server_error", "ValueError in the model: at ... in ...")),
    ],
)
def test_what_a_model_raises_is_a_failure_of_the_closed_list(
    critic: InProcessCritic, error: Exception, said: tuple[str, str]
) -> None:
    assert critic.loaded is not None
    loaded = dataclasses.replace(critic.loaded, model=Broken(error))
    assert unanswered(dataclasses.replace(critic, loaded=loaded), question(), attempt()) == said


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_a_failure_and_no_verdict(critic: InProcessCritic, temperature: float) -> None:
    import torch

    assert critic.loaded is not None
    asked = attempt(temperature=temperature)
    decoder = decoding.begin(question().schema, asked, critic.loaded.vocabulary, threading.Event(), 0.0)
    with pytest.raises(Unanswered, match="server_error: its logits are no numbers"):
        decoder(torch.zeros(1, 1, dtype=torch.long), torch.full((1, 448), torch.nan))


# ---- reasoning before the answer


def grown(critic: InProcessCritic, texts: tuple[str, ...]) -> tuple[decoding.Decoder, list[int], bool]:
    """A decoder that was given the tokens of some texts; whether it is done."""
    import torch

    assert critic.loaded is not None
    words = critic.loaded.processor.tokenizer
    ids = [token for text in texts for token in words.encode(text, add_special_tokens=False)]
    asked, began_s = attempt(thinking=True), time.monotonic()
    decoder = decoding.begin(schema.canary_schema(), asked, critic.loaded.vocabulary, threading.Event(), began_s)
    done = [bool(decoder.stop(torch.tensor([ids[: upto + 1]]), None)) for upto in range(len(ids))]
    return decoder, ids, done[-1]


def test_what_comes_before_the_answer_is_kept_beside_it(critic: InProcessCritic) -> None:
    answer = f'{{"canary":"{schema.CANARY}"}}'
    decoder, ids, done = grown(critic, ("it is {red}\n", "</think>", answer))
    reply = decoder.reply(ids, 9)
    assert (done, reply.text, reply.finish, reply.raw) == (True, answer, "stop", {"reasoning": "it is {red}\n"})


def test_reasoning_without_end_is_no_answer(critic: InProcessCritic) -> None:
    decoder, ids, done = grown(critic, ("it is red", "<|im_end|>"))
    with pytest.raises(Unanswered, match="no_answer: ended after its reasoning"):
        decoder.reply(ids, 9)
    assert done


def test_reasoning_that_was_cut_has_no_answer_text(critic: InProcessCritic) -> None:
    decoder, ids, done = grown(critic, ("it is red",))
    reply = decoder.reply(ids, 9)
    assert (done, reply.text, reply.finish) == (False, "", "length")


def test_reasoning_is_not_held_to_the_schema(critic: InProcessCritic) -> None:
    reply = critic.ask(question(), attempt(thinking=True, max_tokens=3))
    assert (reply.text, reply.finish) == ("", "length") and reply.raw["reasoning"]


def test_a_template_without_the_switch_is_refused_when_reasoning_is_wanted(copied: Path, tmp_path: Path) -> None:
    template = copied / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("enable_thinking", "thoughts"), "utf-8")
    judged = profile(sampling=profile().sampling.model_copy(update={"thinking": True}))
    code, said = refused(copied, tmp_path, judged)
    assert (code, said.partition(".")[0]) == ("setting_ignored", "critic")
    assert "is true, and the chat template of the model has no enable_thinking" in said


# ---- what is loaded


def test_the_identity_says_what_decides_the_answers_and_no_path(critic: InProcessCritic) -> None:
    said = json.loads(json.dumps(critic.identity))
    assert (said["architecture"], said["vision_dtype"], said["quantization"]) == (
        "LlavaForConditionalGeneration", "float32", None,
    )  # fmt: skip
    assert str(tiny_vlm.folder()) not in json.dumps(said)


def test_another_template_is_another_identity(critic: InProcessCritic, copied: Path, tmp_path: Path) -> None:
    template = copied / "chat_template.jinja"
    template.write_text(template.read_text("utf-8") + "{# other #}", "utf-8")
    other = load_transformers(bench(copied, tmp_path)).identity
    changed = {name for name in other if other[name] != critic.identity[name]}
    assert changed == {"chat_template", "settings"}


def test_the_number_format_is_that_of_the_runtime(tmp_path: Path) -> None:
    said = load_transformers(bench(tiny_vlm.folder(), tmp_path, dtype="bfloat16")).identity
    assert (said["dtype"], said["vision_dtype"]) == ("bfloat16", "bfloat16")


def test_packed_weights_are_named_by_method_bits_and_digest() -> None:
    packed = SimpleNamespace(config=SimpleNamespace(quantization_config={"quant_method": "gptq", "bits": 4}))
    said = checkpoint._quantization(packed)
    assert said is not None and (said["method"], said["bits"], len(said["sha256"])) == ("gptq", 4, 64)


def test_the_sampling_that_a_folder_brings_is_not_used(critic: InProcessCritic, copied: Path, tmp_path: Path) -> None:
    edit(copied / "generation_config.json", {"repetition_penalty": 9.0, "min_new_tokens": 300, "num_beams": 3})
    other = load_transformers(bench(copied, tmp_path))
    assert other.ask(question(), SHORT).text == critic.ask(question(), SHORT).text


def test_weights_with_a_hole_are_refused(copied: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied / "model.safetensors")
    name = next(name for name in sorted(tensors) if "vision_tower" in name)
    save_file({own: tensor for own, tensor in tensors.items() if own != name}, copied / "model.safetensors")
    code, said = refused(copied, tmp_path)
    assert code == "weights_missing" and "has no weights for 1 tensors (first model.vision_tower" in said


def test_weights_that_were_cut_off_are_refused(copied: Path, tmp_path: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, said = refused(copied, tmp_path)
    assert code == "load_failed" and "does not load as a vision-language model" in said


def test_pickled_weights_are_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    code, said = refused(copied, tmp_path)
    assert code == "load_failed" and "model.safetensors" in said


def test_a_folder_without_pictures_is_refused(copied: Path, tmp_path: Path) -> None:
    edit(copied / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    code, said = refused(copied, tmp_path)
    assert code == "load_failed" and "Unrecognized configuration class" in said


def test_code_in_a_folder_is_not_run(copied: Path, tmp_path: Path) -> None:
    (copied / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    edit(copied / "config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "own.Config"}})
    code, said = refused(copied, tmp_path)
    assert code == "load_failed" and not (tmp_path / "ran").exists() and "custom code" in said


def test_a_context_beyond_the_model_is_refused_with_both_numbers(tmp_path: Path) -> None:
    code, said = refused(tiny_vlm.folder(), tmp_path, context=9000)
    assert code == "out_of_bounds" and "critic_runtime.context: is 9000" in said and "8192 positions" in said


def test_a_template_that_takes_no_system_text_is_refused_at_once(copied: Path, tmp_path: Path) -> None:
    no_system = "{{ raise_exception('System role not supported') if messages[0].role == 'system' }}"
    (copied / "chat_template.jinja").write_text(no_system, "utf-8")
    code, said = refused(copied, tmp_path)
    assert code == "load_failed" and "System role not supported" in said


@pytest.mark.slow
def test_a_profile_whose_schema_is_too_large_for_the_grammar_is_refused(tmp_path: Path) -> None:
    judged = profile(10, max_items=20_000)
    code, said = refused(tiny_vlm.folder(), tmp_path, judged)
    assert code == "schema_unsupported" and "critic: shapes gives a schema" in said and "too big" in said


@pytest.mark.skipif(not NO_TORCHVISION, reason="torchvision is installed")
def test_a_model_that_needs_a_package_that_is_not_there_names_it(tmp_path: Path) -> None:
    code, said = refused(tiny_vlm.folder("qwen3_vl"), tmp_path)
    assert code == "dependency_missing" and "requires the Torchvision library" in said


@pytest.mark.slow
@pytest.mark.skipif(NO_TORCHVISION, reason="torchvision is not installed, and the processors of these families need it")
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5"])
def test_the_families_of_the_shipped_runtimes_reply_under_the_schema(family: str, tmp_path: Path) -> None:
    loaded = load_transformers(bench(tiny_vlm.folder(family), tmp_path))
    asked = [question(images=(picture(colour),)) for colour in (RED, GREEN)]
    replies = [loaded.ask(one, attempt(temperature=1.0)) for one in asked]
    assert all(map(matches, replies, asked)) and replies[0].text != replies[1].text


# ---- the tiny models themselves


def test_the_tiny_model_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    again = tiny_vlm.make(tmp_path / "again")
    names = sorted(path.name for path in again.iterdir())
    assert [(again / name).read_bytes() == (tiny_vlm.folder() / name).read_bytes() for name in names] == [True] * 8


@pytest.mark.parametrize("text", ['{"evidence":[{"id":"e1"}]} \n\t', "é 日本 🎨", "\x00\x7f"])
def test_the_tiny_tokenizer_gives_back_any_text(text: str) -> None:
    words = tiny_vlm.tokenizer()
    assert words.decode(words.encode(text)) == text
