"""Does a server's runtime say one thing: a server that others run, or one that we start? And does it keep secrets out?

Pure but for the environment, in which the key of another's server is looked for. What it does not know: whether
anything answers there; that is found out when it starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from runner.config.critic import ClipRuntime, OpenAIRuntime, Server, ServerPhase, TransformersRuntime
from runner.errors import Fault, Refused, choose

BLANK = re.compile(r"\{([a-z_]+)\}")  # braces around a word; those of JSON are none
BLANKS = ("path", "projector", "model", "host", "port", "context", "max_images", "concurrency", "total_context")
BLANKS_OF_ENV = ("cache",)
SECRET_FLAG = re.compile(r"--?(api-?key|hf-?token|token|password|secret)(=.*)?", re.IGNORECASE)
SECRET_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
SECRET = re.compile(r"\b(sk-[\w-]{12,}|hf_\w{12,}|gh[pousr]_\w{20,}|AKIA[0-9A-Z]{16})|Bearer\s+\S{8,}")
SWITCHES = ("", "0", "1", "true", "false")  # no secret, whatever the variable is called


def check_server(runtime: OpenAIRuntime) -> Iterator[Fault]:
    """Every rule about a server, whatever it is asked."""
    yield from _check_secrets(runtime)
    yield from _check_whose(runtime)
    yield from _check_url(runtime.url)
    if runtime.server is not None:
        yield from _check_command(runtime, runtime.server)
        yield from _check_engine(runtime, runtime.server)
        yield from _check_patterns(runtime.server)
    elif runtime.key_env and not os.environ.get(runtime.key_env):
        what = f"names {runtime.key_env}, which is not set in this environment"
        fix = f"Set it (export {runtime.key_env}=...), or critic_runtime.key_env=null if the server wants no key"
        yield Fault("critic_key_missing", "critic_runtime.key_env", what, fix)


def server_mib(runtime: ClipRuntime | TransformersRuntime | OpenAIRuntime | None) -> int:
    """What the server that we start is said to take, in MiB; 0 for any other critic, of which nobody has said."""
    server = runtime.server if isinstance(runtime, OpenAIRuntime) else None
    return sum(server.memory.model_dump().values()) if server else 0


def patterns(phases: Sequence[ServerPhase]) -> dict[str, re.Pattern[str]]:
    """The expressions of a server's log by the phase that each begins. Raises Refused(bad_pattern) with all faults."""
    found, faults = dict[str, re.Pattern[str]](), list[Fault]()
    for number, phase in enumerate(phases):
        try:
            found[phase.name] = re.compile(phase.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            where = f"critic_runtime.server.phases[{number}].pattern"
            what = f"{phase.pattern[:80]!r} is no regular expression ({error})"
            faults.append(Fault("bad_pattern", where, what, "Write a backslash before ( [ + * . and the like"))
    if faults:
        raise Refused(faults)
    return found


def _check_whose(runtime: OpenAIRuntime) -> Iterator[Fault]:
    """Others run it at an address, or we start it from weights; what belongs to the other kind would be ignored."""
    if runtime.server is None:
        ignored = {"path": runtime.path, "projector": runtime.projector, "sha256": runtime.sha256}
        whose = "others run the server (critic_runtime.server is null)"
        needed, value, fix = "url", runtime.url, "Name its address, or say in critic_runtime.server how it is started"
    else:
        ignored = {"url": runtime.url, "key_env": runtime.key_env}
        whose = "we start the server, on loopback and with a key of its own"
        needed, value, fix = "path", runtime.path, "Name the weights"
    if value is None:
        yield Fault("missing_value", f"critic_runtime.{needed}", f"is null, and {whose}", fix)
    for name, given in ignored.items():
        if given is not None:
            what = f"{_without_secret(given)} would be ignored: {whose}"
            yield Fault("setting_ignored", f"critic_runtime.{name}", what, f"Set critic_runtime.{name}=null")


def _check_url(url: str | None) -> Iterator[Fault]:
    where, given = "critic_runtime.url", _without_secret(url or "")
    try:
        parts = urlsplit(url or "http://none")
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number or too high, or half of an IPv6 address
        usable = False
    if not usable:
        yield Fault("bad_url", where, f"{given} has no usable host or port", "Write http://HOST:PORT, port 1 to 65535")
    elif parts.path.rstrip("/").endswith("/v1"):
        yield Fault("bad_url", where, f"{given} ends in /v1, which is added to it", "Leave out /v1")


def _check_command(runtime: OpenAIRuntime, server: Server) -> Iterator[Fault]:
    named = set(BLANK.findall(" ".join(server.command)))
    yield from _unknown("critic_runtime.server.command", named, BLANKS)
    for name, text in server.env.items():
        yield from _unknown(f"critic_runtime.server.env.{name}", set(BLANK.findall(text)), BLANKS_OF_ENV)
    for name, value in (("path", runtime.path), ("projector", runtime.projector)):
        if value and name not in named:
            what = f"{value} would be ignored: critic_runtime.server.command has no {{{name}}}"
            yield Fault("setting_ignored", f"critic_runtime.{name}", what, f"Write {{{name}}} in the command")
        if name in named and not value:
            fix = "Name the file, or take it out of critic_runtime.server.command"
            yield Fault("missing_value", f"critic_runtime.{name}", f"is null, and the command has {{{name}}}", fix)


def _unknown(where: str, named: set[str], known: Sequence[str]) -> Iterator[Fault]:
    for name in sorted(named - {*known}):
        yield Fault("unknown_blank", where, f"has {{{name}}}, which nothing fills in", choose(name, known))


def _check_engine(runtime: OpenAIRuntime, server: Server) -> Iterator[Fault]:
    if server.engine == "vllm":
        return
    of_vllm = (
        ("server.between", server.between == "sleep", "sleep", "restart"),
        ("stop_repeating", runtime.stop_repeating, "true", "false"),
    )
    for name, given, value, instead in of_vllm:
        if given:
            what = f"is {value}, which vLLM alone can do; critic_runtime.server.engine is {server.engine}"
            yield Fault("critic_unsuited", f"critic_runtime.{name}", what, f"Set critic_runtime.{name}={instead}")


def _check_patterns(server: Server) -> Iterator[Fault]:
    try:
        patterns(server.phases)
    except Refused as refusal:
        yield from refusal.faults


# ---- secrets


def _check_secrets(runtime: OpenAIRuntime) -> Iterator[Fault]:
    """A key in the request would stand in the manifest for ever; what is said of it does not repeat it."""
    for where in _secret_places(runtime):
        fix = (
            "Take it out: a server of ours is given a key when it starts; another's is named in critic_runtime.key_env"
        )
        yield Fault("secret_in_config", where, "holds a key, which a manifest would keep", fix)


def _secret_places(runtime: OpenAIRuntime) -> Iterator[str]:
    if SECRET.search(runtime.url or ""):
        yield "critic_runtime.url"
    if runtime.server is None:
        return
    if any(SECRET_FLAG.fullmatch(word) or SECRET.search(word) for word in runtime.server.command):
        yield "critic_runtime.server.command"
    for name, value in runtime.server.env.items():
        named = SECRET_NAME.search(name) and value.lower() not in SWITCHES
        if named or name == runtime.server.key_variable or SECRET.search(value):
            yield f"critic_runtime.server.env.{name}"


def _without_secret(text: str) -> str:
    return SECRET.sub("...", text)
