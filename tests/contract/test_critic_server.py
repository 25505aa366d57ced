"""A server that others run or that we start, and the files of every kind of critic: each rule with its exact words."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from runner import store
from runner.config.critic import OpenAIRuntime, TransformersRuntime
from runner.contract import critic, critic_files, critic_server
from runner.contract.folders import files_digest, weights_digest
from runner.critic.supervise import launch
from tests import fakes
from tests.contract.critics import CLIP, external, ours, profile, said

# ---- a server by itself


@pytest.mark.parametrize(
    ("runtime", "messages"),
    [
        (external(), []),
        (ours(), []),
        (ours({"projector": "p.gguf"}, command=["sh", "{path}", "--mmproj={projector}", "{host}", "{model}"]), []),
        (external(url=None), [
            "missing_value: critic_runtime.url: is null, and others run the server (critic_runtime.server is null). "
            "Name its address, or say in critic_runtime.server how it is started."]),
        (external(path="m", projector="p", sha256="0" * 64), [
            f"setting_ignored: critic_runtime.{name}: {value} would be ignored: "
            f"others run the server (critic_runtime.server is null). Set critic_runtime.{name}=null."
            for name, value in (("path", "m"), ("projector", "p"), ("sha256", "0" * 64))]),
        (ours({"path": None}, command=["sh"]), [
            "missing_value: critic_runtime.path: is null, and we start the server, on loopback and with a key of its "
            "own. Name the weights."]),
        (ours({"url": "http://127.0.0.1:1", "key_env": "KEY"}), [
            f"setting_ignored: critic_runtime.{name}: {value} would be ignored: "
            f"we start the server, on loopback and with a key of its own. Set critic_runtime.{name}=null."
            for name, value in (("url", "http://127.0.0.1:1"), ("key_env", "KEY"))]),
        (ours(command=["sh", "{path}", "{gpu}"]), [
            "unknown_blank: critic_runtime.server.command: has {gpu}, which nothing fills in. "
            "Known: concurrency, context, host, max_images, model, path, port, projector, total_context."]),
        (ours(env={"A": "{home}/x", "B": "{cache}"}), [
            "unknown_blank: critic_runtime.server.env.A: has {home}, which nothing fills in. Known: cache."]),
        (ours({"projector": "p.gguf"}), [
            "setting_ignored: critic_runtime.projector: p.gguf would be ignored: "
            "critic_runtime.server.command has no {projector}. Write {projector} in the command."]),
        (ours(command=["sh", "{path}", "{projector}"]), [
            "missing_value: critic_runtime.projector: is null, and the command has {projector}. "
            "Name the file, or take it out of critic_runtime.server.command."]),
        (ours(between="sleep"), [
            "critic_unsuited: critic_runtime.server.between: is sleep, which vLLM alone can do; "
            "critic_runtime.server.engine is llama_server. Set critic_runtime.server.between=restart."]),
        (ours({"stop_repeating": True}), [
            "critic_unsuited: critic_runtime.stop_repeating: is true, which vLLM alone can do; "
            "critic_runtime.server.engine is llama_server. Set critic_runtime.stop_repeating=false."]),
        (ours({"stop_repeating": True}, between="sleep", engine="vllm"), []),
        (ours(phases=[{"name": "a", "pattern": "ready|up"}, {"name": "b", "pattern": "("}]), [
            "bad_pattern: critic_runtime.server.phases[1].pattern: '(' is no regular expression (missing ), "
            "unterminated subpattern at position 0). Write a backslash before ( [ + * . and the like."]),
        *[(external(url=url), [
            f"bad_url: critic_runtime.url: {url} ends in /v1, which is added to it. Leave out /v1."])
            for url in ("http://127.0.0.1:8000/v1", "https://host/some/v1/")],
        *[(external(url=url), [
            f"bad_url: critic_runtime.url: {url} has no usable host or port. "
            "Write http://HOST:PORT, port 1 to 65535."])
            for url in ("http://host:70000", "http://host:port", "http://host:0", "http://:80", "http://[::1")],
        *[(external(url=url), []) for url in ("http://[::1]:80/", "https://host/v1/openai", "http://host/xv1x")],
    ],
)  # fmt: skip
def test_a_server_is_one_of_others_or_one_of_ours(runtime: OpenAIRuntime, messages: list[str]) -> None:
    assert said(critic_server.check_server(runtime)) == messages


def test_what_a_server_of_ours_takes_is_what_is_declared_of_it() -> None:
    assert critic_server.server_mib(ours()) == 4
    assert [critic_server.server_mib(other) for other in (external(), None)] == [0, 0]


def test_every_blank_that_is_accepted_is_filled_in() -> None:
    blanks = [f"{{{name}}}" for name in critic_server.BLANKS]
    runtime = ours({"projector": str(CLIP / "config.json")}, command=["sh", *blanks])
    assert said(critic_server.check_server(runtime)) == []
    assert not any(critic_server.BLANK.search(word) for word in launch.command(runtime, 1))


KEY = "sk-" + "a" * 20


@pytest.mark.parametrize(
    ("runtime", "where"),
    [
        (external(url=f"http://127.0.0.1/{KEY}"), "url"),
        (ours(command=["sh", "{path}", "--api-key", "x"]), "server.command"),
        (ours(command=["sh", "{path}", "--api-key=x"]), "server.command"),
        (ours(command=["sh", "{path}", "--header", "Authorization: Bearer abcdefgh"]), "server.command"),
        (ours(env={"HF_TOKEN": "x1"}), "server.env.HF_TOKEN"),
        (ours(env={"LLAMA_API_KEY": ""}), "server.env.LLAMA_API_KEY"),
        (ours(env={"OTHER": KEY}), "server.env.OTHER"),
    ],
)
def test_a_key_in_the_request_is_refused_and_not_repeated(runtime: OpenAIRuntime, where: str) -> None:
    [message] = said(critic_server.check_server(runtime))
    assert message == (
        f"secret_in_config: critic_runtime.{where}: holds a key, which a manifest would keep. Take it out: "
        "a server of ours is given a key when it starts; another's is named in critic_runtime.key_env."
    )


@pytest.mark.parametrize(
    "runtime",
    [
        ours(env={"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}),
        ours(command=["sh", "{path}", "--max-tokens", "--api-key-file"]),
    ],
)
def test_what_only_sounds_like_a_key_is_none(runtime: OpenAIRuntime) -> None:
    assert said(critic_server.check_server(runtime)) == []


def test_a_key_that_is_named_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRITIC_KEY", raising=False)
    assert said(critic_server.check_server(external(key_env="CRITIC_KEY"))) == [
        "critic_key_missing: critic_runtime.key_env: names CRITIC_KEY, which is not set in this environment. "
        "Set it (export CRITIC_KEY=...), or critic_runtime.key_env=null if the server wants no key."
    ]
    monkeypatch.setenv("CRITIC_KEY", "k")
    assert said(critic_server.check_server(external(key_env="CRITIC_KEY"))) == []


# ---- files


def transformers(path: Path | None) -> TransformersRuntime:
    given = str(path) if path else None
    return TransformersRuntime(
        id="vlm", backend="transformers", path=given, sha256=None, dtype="float32", context=8192
    )  # fmt: skip


def test_what_a_model_folder_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "tokenizer.json").touch()
    fix = "Name the folder of a vision-language model with its processor."
    assert said(critic_files.check_files(profile(), transformers(tmp_path))) == [
        f"critic_missing: critic_runtime.path: {tmp_path} has no {lost}. {fix}"
        for lost in ("preprocessor_config.json or processor_config.json", "*.safetensors")
    ]
    assert said(critic_files.check_files(profile(), transformers(CLIP))) == []
    assert said(critic_files.check_files(profile(), transformers(None))) == [
        "critic_missing: critic_runtime.path: null is not there. Name the folder that holds the model."
    ]


def test_reference_pictures_that_are_not_there_are_named() -> None:
    asked = fakes.request({"critic": {**profile({"criteria.3.clip.references": "nowhere"}).model_dump(mode="json")}})
    *_, last = said(critic.check_critic(asked))
    assert last == (
        "critic_missing: critic.criteria (concept).clip.references: nowhere is not there. "
        "Name the folder that holds it."
    )


def test_weights_and_program_of_a_server_must_be_here(tmp_path: Path) -> None:
    missing = ours({"path": "nowhere.gguf", "projector": "p.gguf"}, command=["no-such-server", "{path}", "{projector}"])
    get = "Get it (hf download REPOSITORY --local-dir DIR), or set critic_runtime."
    assert said(critic_files.check_files(profile(), missing)) == [
        f"critic_missing: critic_runtime.path: nowhere.gguf is not there. {get}path.",
        f"critic_missing: critic_runtime.projector: p.gguf is not there. {get}projector.",
        "critic_missing: critic_runtime.server.command: starts no-such-server, which is not on PATH. Install llama.cpp "
        "(brew install llama.cpp, apt install llama.cpp, or a release of ggml-org), or write its path.",
    ]
    assert said(critic_files.check_files(profile(), ours())) == []
    assert said(critic_files.check_files(profile(), external())) == []


def test_weights_in_parts_are_there_with_all_of_them(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-{number:05d}-of-00002.gguf" for number in (1, 2))
    first.write_bytes(b"1")
    [message] = said(critic_files.check_files(profile(), ours({"path": str(first)})))
    assert f"{first} is without {second.name}. Get all of its parts." in message
    second.write_bytes(b"2")
    assert said(critic_files.check_files(profile(), ours({"path": str(first)}))) == []


# ---- digests


def with_runtime(runtime: OpenAIRuntime | TransformersRuntime) -> Any:
    return fakes.request({"critic_runtime": runtime.model_dump(mode="json")})


def test_files_of_the_embedded_critic_are_its_folder_and_its_pictures() -> None:
    expected = store.digest_of([files_digest(CLIP), files_digest(CLIP / "references")])
    assert critic.critic_files(fakes.request()) == expected
    assert critic.critic_weights(fakes.request()) == weights_digest(CLIP)


def test_one_file_of_weights_has_the_digest_that_anybody_finds(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"weights")
    asked = with_runtime(ours({"path": str(tmp_path / "m.gguf")}))
    assert critic.critic_weights(asked) == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize("name", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj.gguf"])
def test_every_file_that_decides_an_answer_changes_the_digest(tmp_path: Path, name: str) -> None:
    for each in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj.gguf"):
        (tmp_path / each).write_bytes(b"before")
    place = {"path": str(tmp_path / "m-00001-of-00002.gguf"), "projector": str(tmp_path / "mmproj.gguf")}
    asked = with_runtime(ours(place))
    before = critic.critic_files(asked)
    (tmp_path / name).write_bytes(b"after")
    assert critic.critic_files(asked) != before


def test_a_critic_without_files_here_has_no_digest() -> None:
    assert critic.critic_files(with_runtime(external())) is None
    assert critic.critic_weights(with_runtime(external())) is None
    assert critic.critic_files(fakes.request({}, "demo", "critic=none")) is None
    assert critic.critic_weights(fakes.request({}, "demo", "critic_runtime=none")) is None
