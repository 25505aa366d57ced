"""Chat templates, rendered as transformers renders them, but as what they are: programs from elsewhere.

A template runs in jinja2's immutable sandbox, with a limit on its size, its numbers, each of its texts, its output and
its time. Filters and methods that pad or repeat are refused. It refuses a template that is missing, broken, or does not
hold the prompt. What stays unbounded: how many texts of up to a megabyte a loop may keep in nested lists before its
time is over, and the loop itself, which is left behind in its thread. What it does not know: tokens.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from runner import store
from runner.errors import Fault, Refused, first_line
from runner.prompt.vocabulary import named_tokens
from runner.prompt.windows import Chat

MAX_TEMPLATE_CHARS = 1 << 20
MAX_TEMPLATE_BYTES = 4 * MAX_TEMPLATE_CHARS
MAX_RENDERED_CHARS = 1 << 20
MAX_REPEAT = 100_000  # of a text or list multiplied inside a template, as many as jinja2 allows a range
MAX_NUMBER = 2**64
MAX_INDENT_CHARS = 16
GROWING = {  # a short call to these makes a text or a list of any length
    "filters": ("batch", "center", "format", "indent", "pprint", "slice", "urlize", "wordwrap", "xmlattr"),
    "globals": ("lipsum",),
    "methods": (
        "center", "encode", "expandtabs", "format", "format_map", "join", "ljust", "replace", "rjust", "to_bytes",
        "translate", "zfill",
    ),
}  # fmt: skip
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
        pieces: list[str] = []
        num_chars = 0
        for piece in compiled.generate(
            messages=chat.messages(text), tools=None, documents=None, add_generation_prompt=chat.answer_begun,
            **{**template.tokens, **chat.variables},
        ):  # fmt: skip
            pieces.append(piece)
            num_chars += len(piece)
            if num_chars > MAX_RENDERED_CHARS:
                raise _broken(template, f"writes more than {MAX_RENDERED_CHARS} characters for one prompt")
        return "".join(pieces)

    return say


def _in_time(template: Template, task: Callable[[], list[Placed | None]], limit_s: float) -> list[Placed | None]:
    """The result of a task on a template from elsewhere; a loop without end is left behind with the refusal."""
    done: list[list[Placed | None]] = []
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            done.append(task())
        except Exception as error:  # MemoryError and RecursionError are among them
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
    if not os.path.lexists(place):
        return None
    try:
        text = store.read_regular(place, MAX_TEMPLATE_BYTES).decode("utf-8")
        return json.loads(text).get("chat_template") if place.suffix == ".json" else text
    except (OSError, ValueError, AttributeError) as error:
        what = f"cannot be read ({first_line(error)})"
        raise Refused(Fault("template_broken", str(place), what, "Get the tokenizer's files again")) from error


class TooLarge(ValueError):
    """A template makes a text that is too large to be a prompt."""


def _bounded(value: Any, room: int = MAX_RENDERED_CHARS) -> int:
    """What is left of the room for characters behind a value, lists and tables in it included. Raises TooLarge."""
    if isinstance(value, str | bytes):
        room -= len(value)
    elif isinstance(value, list | tuple | set | frozenset | Mapping):
        for each in value.items() if isinstance(value, Mapping) else value:
            room = _bounded(each, room - 1)
    if room < 0:
        raise TooLarge(f"a text or list of more than {MAX_RENDERED_CHARS} characters")
    return room


def _checked(act: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose arguments are bounded; it keeps the mark that tells jinja2 what to pass."""

    @functools.wraps(act)
    def checked(*args: Any, **named: Any) -> Any:
        _bounded([args, named])
        return act(*args, **named)

    return checked


def _shown(value: Any) -> Any:
    _bounded(value)
    return value


def _together(parts: Iterable[Any]) -> str:
    """Pieces as one text, measured before it is made."""
    texts: list[str] = []
    room = MAX_RENDERED_CHARS
    for part in parts:
        _bounded(part)
        texts.append(str(part))
        room = _bounded(texts[-1], room)
    return "".join(texts)


def _sandbox() -> Any:
    """jinja2 as transformers sets it up (render_jinja_template in transformers 5.23), and stricter."""
    from jinja2 import TemplateError, nodes
    from jinja2.compiler import CodeGenerator
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.filters import do_join, do_replace
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import pass_eval_context

    class Generation(Extension):
        """`{% generation %}` marks what an assistant wrote; it changes no text."""

        tags = {"generation"}  # noqa: RUF012  # jinja2 wants a plain set

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Measured(CodeGenerator):
        def visit_Concat(self, node: Any, frame: Any) -> None:  # jinja2's name
            self.write("environment.concat((")
            for each in node.nodes:
                self.visit(each, frame)
                self.write(", ")
            self.write("))")

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**", "+", "%"])
        code_generator_class = Measured
        concat = staticmethod(_together)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return attr not in GROWING["methods"] and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> None:
            """Left to is_safe_attribute, which refuses `format`."""

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            sizes = [len(each) if hasattr(each, "__len__") else each for each in (left, right)]
            sized = hasattr(left, "__len__") or hasattr(right, "__len__")
            if operator == "**" or (operator == "*" and sized and sizes[0] * sizes[1] > MAX_REPEAT):
                raise SecurityError(f"{operator} makes something too large")
            if operator == "%" and isinstance(left, str | bytes):
                raise SecurityError("% may write a text of any length")
            if operator == "*" and not sized and abs(left * right) > MAX_NUMBER:
                raise SecurityError("* makes a number too large")
            if operator == "+":
                _bounded([left, right])
            return super().call_binop(context, operator, left, right)

    @pass_eval_context
    def join(context: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
        items = [*value]
        _bounded(items, MAX_RENDERED_CHARS - len(str(d)) * len(items))
        return do_join(context, items, d, attribute)

    @pass_eval_context
    def replace(context: Any, s: str, old: str, new: str, count: int | None = None) -> Any:
        if len(str(new)) * (str(s).count(str(old)) + 1) > MAX_RENDERED_CHARS:
            raise SecurityError("replace makes something too large")
        return do_replace(context, s, old, new, count)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
               sort_keys: bool = False) -> str:  # fmt: skip
        for each in (indent, *(separators or ())):
            if (each if isinstance(each, int) else len(each or "")) > MAX_INDENT_CHARS:
                raise SecurityError("tojson is asked for too many spaces")
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], finalize=_shown)
    sandbox.filters |= {"tojson": tojson, "join": join, "replace": replace}
    sandbox.filters = {n: _checked(act) for n, act in sandbox.filters.items() if n not in GROWING["filters"]}
    for name in GROWING["globals"]:
        sandbox.globals.pop(name)
    sandbox.globals["raise_exception"] = raise_exception
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return sandbox
