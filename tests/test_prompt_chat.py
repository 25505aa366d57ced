"""Chat templates are rendered as transformers renders them, and what is wrong with one is a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.errors import Refused
from runner.prompt import chat
from runner.prompt.chat import Placed, Template, load_template, render
from runner.prompt.windows import WINDOWS, Chat, Window
from tests import tiny, tiny_tokenizers

PLAIN = Chat(answer_begun=True)
TEXT = "a red dog, (ohwx:1.2) {{ 7 * 7 }} <b>"
DOUBLED = "{{% set ns = namespace(s='abc', n=3) %}}{{% for i in range(99) %}}{{% set ns.s = {} %}}{{% endfor %}}"
CONTENT = "{{ messages[0]['content'] }}"


def template(source: str) -> Template:
    return Template(Path("tokenizer/chat_template.jinja"), source, {"bos_token": "<s>"})


def rendered(source: str, *texts: str, asked: Chat = PLAIN) -> list[Placed | None]:
    return render(template(source), asked, texts or (TEXT,))


CHATS = [
    (pipeline, use.template, family)
    for pipeline, uses in WINDOWS.items() for use in uses.values() if isinstance(use.template, Chat)
    for family in ("flux2", "flux2-klein", "qwen-image", "z-image")
    if not use.template.parts or family in ("flux2", "qwen-image")  # Qwen3's template takes texts only
]  # fmt: skip


@pytest.mark.parametrize(("pipeline", "asked", "family"), CHATS, ids=[f"{name}-{family}" for name, _, family in CHATS])
def test_a_template_is_rendered_as_transformers_renders_it(pipeline: str, asked: Chat, family: str) -> None:
    """Every way of asking, on every template that takes it."""
    theirs: Any = tiny.pipeline(family).tokenizer
    folder = tiny.folder(family) / "tokenizer"
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (place,) = render(load_template(folder, config), asked, [TEXT])
    expected = theirs.apply_chat_template(
        asked.messages(TEXT), tokenize=False, add_generation_prompt=asked.answer_begun, **asked.variables
    )
    assert place == (expected, expected.index(TEXT))


@pytest.mark.parametrize(
    "source",
    [
        "{% generation %}" + CONTENT + "{% endgeneration %}",
        "{% for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
        "{{ messages[0] | tojson }}|" + CONTENT,
        "{{ strftime_now('%Y') }} " + CONTENT + " {{ 'ab' * 3 }}{{ [1, 2] * 2 }}{{ 2 * 3 }}",
        "   {% if true %}\n  " + CONTENT + "\n{% endif %}\n",
        "{{ nothing }}{{ nothing is defined }}" + CONTENT + "{{ namespace(a=1).a }}",
    ],
)
def test_what_templates_use_is_there(source: str) -> None:
    theirs: Any = tiny_tokenizers.qwen()
    theirs.chat_template = source
    expected = theirs.apply_chat_template(PLAIN.messages("a dog"), tokenize=False, add_generation_prompt=True)
    assert [place.text for place in rendered(source, "a dog") if place] == [expected]


def test_the_prompt_is_found_though_its_words_stand_before_and_behind_it() -> None:
    (place,) = rendered("dog " + CONTENT + " dog", "dog")
    assert place == ("dog dog dog", 4)


def test_a_prompt_is_found_where_the_words_before_it_depend_on_it() -> None:
    source = "{{ messages[0]['content'] | length }} " + CONTENT
    assert rendered(source, "a dog", "a long red dog") == [("5 a dog", 2), ("14 a long red dog", 3)]


@pytest.mark.parametrize("change", ["upper", "replace('dog', 'cat')", "truncate(4)"])
def test_a_text_that_the_template_changes_is_told_from_the_others(change: str) -> None:
    source = (
        f"{{% if 'dog' in {CONTENT[3:-3]} %}}{{{{ {CONTENT[3:-3]} | {change} }}}}{{% else %}}{CONTENT}{{% endif %}}"
    )
    assert rendered(source, "a cat", "a dog of oak") == [("a cat", 0), None]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("{% if %}", r"cannot be rendered \(TemplateSyntaxError: "),
        ("{% generation %}", r"cannot be rendered \(TemplateSyntaxError: "),
        ("{{ raise_exception('no system here') }}", r"cannot be rendered \(TemplateError: no system here\)"),
        ("{{ messages[7].content }}", r"cannot be rendered \(UndefinedError: "),
        ("{{ messages.append(1) }}" + CONTENT, r"cannot be rendered \(SecurityError: "),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", r"cannot be rendered \(SecurityError: "),
        ("{{ 'a' * 10000000000 }}", r"cannot be rendered \(SecurityError: \* makes something too large\)"),
        ("{{ 9 ** 9 ** 9 }}", r"cannot be rendered \(SecurityError: \*\* makes something too large\)"),
        ("{% for a in range(10000000) %}x{% endfor %}", r"cannot be rendered \(OverflowError: "),
        (
            "{% for a in range(99999) %}{{ 'x' * 99 }}{% endfor %}" + CONTENT,
            "writes more than 1048576 characters for one prompt",
        ),
        ("{% include 'other' %}", r"cannot be rendered \("),
        ("{{ 1 / 0 }}", r"cannot be rendered \(ZeroDivisionError: "),
        ("{{ messages[0].content | center(2000000000) }}", r"cannot be rendered \(Template.*Error: No filter named"),
        ("{{ messages[0].content.ljust(2000000000) }}", r"cannot be rendered \(SecurityError: "),
        ("{{ '{:2000000000}'.format(1) }}", r"cannot be rendered \(SecurityError: "),
        ("{{ ('{:2000000000}' | attr('format'))(1) }}", r"cannot be rendered \(SecurityError: "),
        ("{{ '%2000000000d' % 1 }}", r"cannot be rendered \(SecurityError: % may write"),
        (DOUBLED.format("ns.s ~ ns.s"), r"cannot be rendered \(TooLarge: "),
        (DOUBLED.format("ns.s + ns.s"), r"cannot be rendered \(TooLarge: "),
        (
            DOUBLED.replace("ns.s =", "ns.n =").format("ns.n * ns.n"),
            r"cannot be rendered \(SecurityError: \* makes a number too large",
        ),
        ("{% set s = 'a' * 90000 %}{{ s | replace('a', s) }}", r"cannot be rendered \(SecurityError: replace makes"),
        ("{% set s = 'a' * 90000 %}{{ [s] * 90000 }}", r"cannot be rendered \(TooLarge: "),
        ("{% set s = 'a' * 90000 %}{{ ([s] * 90000) | join }}", r"cannot be rendered \(TooLarge: "),
        (
            "{% set s = 'a' * 90000 %}{% set t %}{% for i in range(99999) %}{{ s }}{% endfor %}{% endset %}",
            r"cannot be rendered \(TooLarge: ",
        ),
        ("{{ [1] | tojson(indent=2000000000) }}", r"cannot be rendered \(SecurityError: tojson"),
        ("{{ lipsum(n=2000000) }}", r"cannot be rendered \(UndefinedError: "),
        ("nothing of it", "does not hold the user's message"),
        ("{{ messages[0]['content'] | upper }}", "does not hold the user's message"),
        ("x" * (chat.MAX_TEMPLATE_CHARS + 1), r"has \d+ characters, 1048576 are read"),
    ],
)
def test_a_broken_or_hostile_template_is_refused(source: str, what: str) -> None:
    with pytest.raises(Refused, match=rf"^- tokenizer/chat_template\.jinja: {what}") as refusal:
        rendered(source)
    assert [(fault.code, fault.fix) for fault in refusal.value.faults] == [
        ("template_broken", "Get the tokenizer's files again")
    ]


def test_a_template_that_does_not_come_to_an_end_is_refused() -> None:
    slow = "{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}" + CONTENT
    with pytest.raises(Refused, match="was not done after 0 s"):
        render(template(slow), PLAIN, [TEXT], limit_s=0.01)


# ---- where a template stands


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ({"chat_template.jinja": "one", "tokenizer_config.json": '{"chat_template": "two"}'}, "one"),
        ({"chat_template.json": '{"chat_template": "three"}'}, "three"),
        ({"tokenizer_config.json": '{"chat_template": "two"}'}, "two"),
        (
            {"tokenizer_config.json": '{"chat_template": [{"name": "rag", "template": "no"}, '
             '{"name": "default", "template": "four"}]}'},
            "four",
        ),
    ],
)  # fmt: skip
def test_a_template_is_read_from_any_of_its_places(tmp_path: Path, files: dict[str, str], source: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    config = json.loads(files.get("tokenizer_config.json", "{}"))
    assert load_template(tmp_path, config).source == source


def test_the_special_tokens_of_a_folder_are_the_templates(tmp_path: Path) -> None:
    config = {"chat_template": "x", "bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    assert load_template(tmp_path, config).tokens == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({}, "has no chat template. Get the tokenizer's files again; the pipeline writes prompts into"),
        ({"tokenizer_config.json": '{"chat_template": []}'}, "has no chat template"),
        ({"chat_template.json": "{"}, "cannot be read"),
        ({"chat_template.json": "[]"}, "cannot be read"),
    ],
)
def test_a_missing_template_is_refused(tmp_path: Path, files: dict[str, str], what: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(Refused, match=what):
        load_template(tmp_path, json.loads(files.get("tokenizer_config.json", "{}")))


def test_a_template_in_bytes_that_are_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(Refused, match=r"chat_template\.jinja: cannot be read"):
        load_template(tmp_path, {})


def test_a_pipeline_that_writes_no_chat_needs_no_template() -> None:
    from runner.prompt import load_encoder

    assert load_encoder("tokenizer", tiny.folder("z-image") / "tokenizer", Window(512)).chat_template is None
