"""The shipped runtimes of servers: their words and variables, what their log lines mean, and one real start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from runner.config.critic import OpenAIRuntime
from runner.contract import critic_server
from runner.critic import supervise
from runner.critic.supervise import launch, log
from runner.gpu import Memory
from tests import fakes
from tests.servers import llama

VLLM, LLAMA, EXTERNAL = "vllm_qwen36_27b_int4_32gb", "llama_server_qwen_gguf", "external"
STARTED = [VLLM, LLAMA]
CARD_MIB = {VLLM: 32153, LLAMA: 24080}  # what a card of 32 GB, and one of 24 GB, has in the driver's words
LINES_OF = {  # as the engines write them, with what begins there
    VLLM: [
        ("INFO 08-21 10:00:01 [api_server.py:1] vLLM API server version 0.33.0", "begin"),
        ("(EngineCore pid=9) INFO [gpu_model_runner.py:1] Starting to load model /models/q...", "weights"),
        ("Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:03<00:03,  3.2s/it]", "weights"),
        ("(EngineCore pid=9) INFO [default_loader.py:1] Loading weights took 6.12 seconds", "weights"),
        ("INFO Model loading took 19.75 GiB memory and 6.36 seconds", "compile"),
        ("INFO [backends.py:1] Dynamo bytecode transform time: 9.98 s", "compile"),
        ("INFO [backends.py:1] Compiling a graph for compile range (1, 8192) takes 26.1 s", "compile"),
        ("INFO [monitor.py:1] torch.compile took 49.31 s in total", "profiling"),
        ("INFO Initial profiling/warmup run took 54.20 s", "profiling"),
        ("INFO [gpu_worker.py:1] Available KV cache memory: 1.5 GiB", "cache"),
        ("INFO [kv_cache_utils.py:1] GPU KV cache size: 49,152 tokens", "cache"),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%", "graphs"),
        ("INFO [core.py:1] init engine (profile, create kv cache, warmup model) took 95.1 seconds", "up"),
        ("INFO:     Application startup complete.", "up"),
    ],
    LLAMA: [
        ("0.00.001.225 I srv  llama_server: initializing ...", "begin"),
        ("0.00.020.244 I srv    load_model: loading model 'm/tiny.gguf'", "weights"),
        ("0.00.042.476 I srv    load_model: loaded multimodal model, 'm/tiny-mmproj.gguf'", "vision"),
        ("0.00.044.126 I srv    load_model: initializing, n_slots = 2, n_ctx_slot = 16384", "slots"),
        ("0.00.045.808 I srv  llama_server: model loaded", "up"),
        ("0.00.045.826 I srv  llama_server: listening on http://127.0.0.1:18181", "up"),
    ],
}


def runtime(name: str, *words: str) -> OpenAIRuntime:
    asked = fakes.request({}, "demo", f"critic_runtime={name}", *words).critic_runtime
    assert isinstance(asked, OpenAIRuntime)
    return asked


def words_of(name: str) -> list[str]:
    """The command of a runtime, with words and values apart whatever the engine's custom."""
    words = supervise.command(runtime(name), 8077)
    return [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]


def value(name: str, flag: str) -> str:
    words = words_of(name)
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("name", STARTED)
def test_a_server_listens_on_this_machine_alone_at_any_free_port(name: str) -> None:
    server = launch.server_of(runtime(name))
    assert (server.host, server.port) == ("127.0.0.1", 0)
    assert (value(name, "--host"), value(name, "--port")) == ("127.0.0.1", "8077")


@pytest.mark.parametrize(("name", "variable"), [(VLLM, "VLLM_API_KEY"), (LLAMA, "LLAMA_API_KEY")])
def test_a_key_is_given_by_the_variable_that_the_engine_reads(name: str, variable: str) -> None:
    env = launch.environment(runtime(name), "cuda:0", "secret", {})
    assert env[variable] == "secret" and "--api-key" not in words_of(name)


@pytest.mark.parametrize("name", STARTED)
def test_numbers_of_a_request_and_of_the_command_are_the_same(name: str) -> None:
    asked = runtime(name, "critic_runtime.context=4096", "critic_runtime.concurrency=3")
    command = " ".join(supervise.command(asked, 1))
    flags = {VLLM: "--max-model-len=4096 --max-num-seqs=3", LLAMA: "--ctx-size 12288 --parallel 3"}
    assert flags[name] in command


@pytest.mark.parametrize("name", STARTED)
def test_weights_lie_below_the_models_of_this_machine(name: str, tmp_path: Path) -> None:
    asked = runtime(name, f"local.models={tmp_path}")
    paths = [path for path in (asked.path, asked.projector) if path]
    assert paths and all(path.startswith(f"{tmp_path}/") and path in supervise.command(asked, 1) for path in paths)


def test_vllm_is_told_to_decode_as_the_critic_needs_it() -> None:
    assert value(VLLM, "--structured-outputs-config") == '{"backend":"guidance","disable_any_whitespace":true}'
    assert value(VLLM, "--limit-mm-per-prompt").startswith('{"image":{"count":3,"width":1024,')
    assert value(VLLM, "--default-chat-template-kwargs") == '{"enable_thinking":false}'
    assert {"--generation-config", "--no-enable-prefix-caching"} < {*words_of(VLLM)}


def test_vllm_keeps_what_it_compiled_and_reports_to_nobody() -> None:
    env = launch.environment(runtime(VLLM), "cuda:0", "k", {})
    assert env["VLLM_CACHE_ROOT"].endswith(f"/critic/{VLLM}/vllm")
    assert (env["VLLM_NO_USAGE_STATS"], env["HF_HUB_OFFLINE"]) == ("1", "1")


def test_the_size_of_the_cache_is_the_one_that_is_counted() -> None:
    cache_mib = launch.server_of(runtime(VLLM)).memory.cache_mib
    assert int(value(VLLM, "--kv-cache-memory-bytes")) == cache_mib << 20


@pytest.mark.parametrize("name", STARTED)
def test_a_server_fits_the_card_it_is_meant_for_and_not_beside_a_generator(name: str) -> None:
    asked, total_mib = runtime(name), CARD_MIB[name]
    assert supervise.check_memory(asked, total_mib - 600, total_mib, {}) is None
    fault = supervise.check_memory(asked, total_mib - 12_000, total_mib, {"this process": 12_000})
    assert fault is not None and fault.what.endswith("this process has 12000 MiB")


@pytest.mark.parametrize("name", STARTED)
def test_phases_follow_the_lines_of_the_engine(name: str) -> None:
    phases = log.Phases(critic_server.patterns(launch.server_of(runtime(name)).phases))
    for line, phase in LINES_OF[name]:
        phases.hear(line)
        assert phases.current()[0] == phase, line
    assert {phase for phase, _ in phases.begun} == {"begin", *phases.patterns}


def test_a_server_of_others_is_asked_and_not_started() -> None:
    asked = runtime(EXTERNAL, "critic_runtime.url=https://judge.example/api")
    assert (asked.server, asked.path, asked.url) == (None, None, "https://judge.example/api")


def test_no_runtime_holds_a_key() -> None:
    for file in (fakes.ROOT / "conf" / "critic_runtime").glob("*.yaml"):
        assert not re.search(r"\b(sk-|hf_)\w{8}", yaml.safe_dump(yaml.safe_load(file.read_bytes()))), file


# ---- a real one


def test_a_real_llama_server_is_started_with_the_shipped_words(tmp_path: Path) -> None:
    program = llama.find()
    if isinstance(program, str):
        pytest.skip(program)
    model = llama.tiny_model()
    asked = runtime(LLAMA)
    command = (str(program), *launch.server_of(asked).command[1:])
    given = launch.server_of(asked).model_copy(update={"command": command})
    asked = asked.model_copy(update={"path": str(model.model), "projector": str(model.projector), "server": given})
    events: list[dict[str, Any]] = []
    server = supervise.start(
        asked, tmp_path, device="cpu", ask_memory=lambda device: Memory(None, None),
        note=lambda event, **facts: events.append({"event": event, **facts}),
    )  # fmt: skip
    try:
        with httpx2.Client(base_url=server.url, trust_env=False) as client:
            props = [
                client.get("/props", headers={"Authorization": f"Bearer {key}"}) for key in (server.key, "another")
            ]
    finally:
        server.stop()
    assert [reply.status_code for reply in props] == [200, 401]
    assert props[0].json()["default_generation_settings"]["n_ctx"] == 8192
    started = [event["phase"] for event in events if event["event"] == "critic_server"]
    assert started == ["begin", "weights", "vision", "slots", "up", "ready", "ended"]
    assert next(event for event in events if event.get("phase") == "ready")["key_checked"]
    assert not server.alive()
