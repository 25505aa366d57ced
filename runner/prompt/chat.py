"""Chat templates, rendered as transformers renders them, but as what they are: programs from elsewhere.

A template runs in jinja2's immutable sandbox, with a limit on its size, its numbers, its output and its time. It
refuses one that is missing, broken, or does not hold the prompt. What it does not know: tokens.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from runner.errors import Fault, Refused, first_line
from runner.prompt.vocabulary import named_tokens
from runner.prompt.windows import Chat

MAX_TEMPLATE_CHARS = 1 << 20
MAX_RENDERED_CHARS = 1 << 20
MAX_REPEAT = 100_000  # of a text or list multiplied inside a template, as many as jinja2 allows a range
MAX_RENDER_S, MAX_PROMPT_S = 5.0, 0.01  # for a batch: so long, and so long more for each prompt
MARK = "\u2060prompt\u2060"  # stands for the prompt where its place is looked for
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


class Placed(NamedTuple):
    """A text in its template, and where in it the prompt begins."""

    text: str
    begin: int


class Template(NamedTuple):
    """A chat template's source, its file, and the special tokens that it may name."""

    place: Path
    source: str
    tokens: Mapping[str, str]


def load_template(folder: Path, config: Mapping[str, Any]) -> Template:
    """The chat template of a tokenizer or processor folder, in transformers' order. Raises Refused."""
    for name in TEMPLATE_FILES:
        place = folder / name
        found = config.get("chat_template") if name == "tokenizer_config.json" else _stored(place)
        if isinstance(found, list):  # several by name
            found = next((e.get("template") for e in found if isinstance(e, dict) and e.get("name") == "default"), None)
        if isinstance(found, str):
            return Template(place, found, _contents(named_tokens(folder, config)))
    fix = "Get the tokenizer's files again; the pipeline writes prompts into its chat template"
    raise Refused(Fault("template_broken", str(folder), "has no chat template", fix))


def render(template: Template, chat: Chat, texts: Sequence[str], limit_s: float = MAX_RENDER_S) -> list[Placed | None]:
    """Every text in the template; None where the template changes the text. Raises Refused."""
    if len(template.source) > MAX_TEMPLATE_CHARS:
        raise _broken(template, f"has {len(template.source)} characters, {MAX_TEMPLATE_CHARS} are read")

    def all_of_them() -> list[Placed | None]:
        say = _compiled(template, chat)
        before, found, _ = say(MARK).partition(MARK)
        if not found:
            raise _broken(template, "does not hold the user's message")
        return [_placed(say(text), before, text) for text in texts]

    return _in_time(template, all_of_them, limit_s + MAX_PROMPT_S * len(texts))


def _placed(rendered: str, before: str, text: str) -> Placed | None:
    if rendered.startswith(before + text):
        return Placed(rendered, len(before))
    return Placed(rendered, rendered.index(text)) if rendered.count(text) == 1 else None


def _compiled(template: Template, chat: Chat) -> Callable[[str], str]:
    compiled = _sandbox().from_string(template.source)

    def say(text: str) -> str:
        rendered: str = compiled.render(
            messages=chat.messages(text), tools=None, documents=None, add_generation_prompt=chat.answer_begun,
            **{**template.tokens, **chat.variables},
        )  # fmt: skip
        if len(rendered) > MAX_RENDERED_CHARS:
            raise _broken(template, f"writes {len(rendered)} characters for one prompt")
        return rendered

    return say


def _in_time(template: Template, task: Callable[[], list[Placed | None]], limit_s: float) -> list[Placed | None]:
    """The result of a task on a template from elsewhere; a loop without end is left behind with the refusal."""
    done: list[list[Placed | None]] = []
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            done.append(task())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(limit_s)
    if done:
        return done[0]
    if not failed:
        raise _broken(template, f"was not done after {limit_s:.0f} s")
    if isinstance(failed[0], Refused):
        raise failed[0]
    raise _broken(template, f"cannot be rendered ({type(failed[0]).__name__}: {first_line(failed[0])})") from failed[0]


def _broken(template: Template, what: str) -> Refused:
    return Refused(Fault("template_broken", str(template.place), what, "Get the tokenizer's files again"))


def _contents(named: Mapping[str, Any]) -> dict[str, str]:
    plain = {name: token.get("content") if isinstance(token, dict) else token for name, token in named.items()}
    return {name: token for name, token in plain.items() if isinstance(token, str)}


def _stored(place: Path) -> Any:
    if not place.is_file():
        return None
    try:
        text = place.read_text("utf-8")
        return json.loads(text).get("chat_template") if place.suffix == ".json" else text
    except (OSError, ValueError, AttributeError) as error:
        what = f"cannot be read ({first_line(error)})"
        raise Refused(Fault("template_broken", str(place), what, "Get the tokenizer's files again")) from error


def _sandbox() -> Any:
    """jinja2 as transformers sets it up (render_jinja_template in transformers 5.23), and stricter."""
    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what an assistant wrote; it changes no text."""

        tags = {"generation"}  # noqa: RUF012  # jinja2 wants a plain set

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            sizes = [len(each) if hasattr(each, "__len__") else each for each in (left, right)]
            sized = hasattr(left, "__len__") or hasattr(right, "__len__")
            if operator == "**" or (sized and sizes[0] * sizes[1] > MAX_REPEAT):
                raise SecurityError(f"{operator} makes something too large")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
               sort_keys: bool = False) -> str:  # fmt: skip
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    sandbox.filters["tojson"] = tojson
    sandbox.globals["raise_exception"] = raise_exception
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return sandbox
