"""How a server is reached, and what it says of itself when it is asked once.

Loopback is never asked through a proxy, redirects are not followed, a key stands in one header and nowhere else. What a
server says of itself is bounded in bytes, characters and seconds, and half characters are written out. It refuses a key
that no header can carry. What it does not know: whether a server that names itself can judge a picture.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypedDict

from runner import store
from runner.critic.backends.completion import UNREADABLE, count, readable
from runner.errors import Fault, Refused, Unavailable

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT_S = 5.0
IDENTITY_TIMEOUT_S = 15.0  # for all that a server says of itself, however slowly it comes
IDENTITY_CHARS = 200  # of one text of it
MAX_PAGE_BYTES = 2**20  # of one event, of an error, of what a server says of itself


class Reach(TypedDict):
    """What every client is set up with."""

    headers: dict[str, str]
    verify: bool
    trust_env: bool
    follow_redirects: bool


def reach(url: str, key: str | None) -> Reach:
    """Settings of an httpx2 client for a server. Raises Refused(critic_key_broken)."""
    headers = {"Accept-Encoding": "identity", "Connection": "close", **_authorization(key)}
    https = url.startswith("https:")  # without it no certificates are loaded: 50 ms a client
    return {"headers": headers, "verify": https, "trust_env": not is_loopback(url), "follow_redirects": False}


def _authorization(key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not (key.isascii() and key.isprintable() and key) or " " in key:
        what = "the key is empty, or has characters that no HTTP header may have"
        fix = "Set its environment variable to the key alone: no spaces, no line end"
        raise Refused(Fault("critic_key_broken", "critic_runtime.key_env", what, fix))
    return {"Authorization": f"Bearer {key}"}


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    import httpx2

    host = httpx2.URL(url).host
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


# ---- what a server says of itself


def identity_of(url: str, key: str | None, model: str, *, timeout_s: float = IDENTITY_TIMEOUT_S) -> dict[str, Any]:
    """What a server tells of the model and of itself; what it does not tell is absent. Raises Unavailable.

    `/health` is not asked: it says neither who is there nor that a request will be answered.
    """
    import asyncio

    import httpx2

    try:
        models, version, props = asyncio.run(_pages(url.rstrip("/"), reach(url, key), timeout_s))
    except TimeoutError as error:
        raise _down(f"the critic at {url} did not say within {timeout_s:g} s who it is") from error
    except (httpx2.HTTPError, OSError) as error:
        raise _down(f"no critic answers at {url} ({type(error).__name__})") from error
    except (*UNREADABLE, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise _down(f"{url} sent what cannot be read ({type(error).__name__})") from error
    told = dict([*_of_models(models, model), *_of_version(version), *_of_props(props)])
    return {name: value for name, value in told.items() if value is not None}


def _down(what: str) -> Unavailable:
    fix = "Start it, or correct the address; then run the same command"
    return Unavailable(Fault("critic_down", "critic_runtime.url", what, fix))


async def _pages(url: str, settings: Reach, timeout_s: float) -> list[dict[str, Any]]:
    """All pages in one time: a limit on each read would let a server drip for days."""
    import asyncio

    import httpx2

    async with asyncio.timeout(timeout_s), httpx2.AsyncClient(**settings, timeout=CONNECT_TIMEOUT_S) as client:
        return [await _page(client, url + path) for path in ("/v1/models", "/version", "/props")]


async def _page(client: httpx2.AsyncClient, address: str) -> dict[str, Any]:
    """A JSON page; empty where there is none. Raises Unavailable(critic_key_refused)."""
    async with client.stream("GET", address) as response:
        if response.status_code in (401, 403):
            which = "another key" if "Authorization" in client.headers else "a key"
            what = f"the server wants {which} ({response.status_code})"
            fix = "Name the environment variable that holds the key in critic_runtime.key_env, and set it"
            raise Unavailable(Fault("critic_key_refused", "critic_runtime.key_env", what, fix))
        data = bytearray()
        async for piece in response.aiter_bytes():
            data += piece
            if len(data) > MAX_PAGE_BYTES:
                return {}
    with suppress(ValueError, RecursionError):
        page = json.loads(data)
        return page if response.status_code == 200 and isinstance(page, dict) else {}
    return {}


Facts = Iterator[tuple[str, Any]]


def _of_models(page: Mapping[str, Any], model: str) -> Facts:
    """Who serves the model, and from which folder (its name, not its place)."""
    listed = page.get("data")
    entries = listed if isinstance(listed, list) else []
    for entry in [entry for entry in entries if isinstance(entry, dict) and entry.get("id") == model][:1]:
        said = entry.get("meta")
        meta = said if isinstance(said, dict) else {}
        yield "owned_by", _text(entry.get("owned_by"))
        yield "folder", _last_part(entry.get("root"))
        yield "context", count(entry.get("max_model_len"))
        yield "num_parameters", count(meta.get("n_params"))
        yield "weights_bytes", count(meta.get("size"))


def _of_version(page: Mapping[str, Any]) -> Facts:
    """vLLM's version."""
    yield "version", _text(page.get("version"))


def _of_props(page: Mapping[str, Any]) -> Facts:
    """llama-server's build, model file, context and chat template."""
    settings, modalities = page.get("default_generation_settings"), page.get("modalities")
    template = page.get("chat_template")
    yield "build", _text(page.get("build_info"))
    yield "file", _last_part(page.get("model_path"))
    if isinstance(template, str) and template:
        yield "chat_template", store.digest(readable(template).encode())
    if isinstance(settings, dict):
        yield "context", count(settings.get("n_ctx"))
    if isinstance(modalities, dict):
        yield "vision", modalities.get("vision") is True


def _text(value: object) -> str | None:
    return readable(value, IDENTITY_CHARS) if isinstance(value, str) and value else None


def _last_part(value: object) -> str | None:
    return _text(PurePosixPath(value.replace("\\", "/")).name) if isinstance(value, str) else None
