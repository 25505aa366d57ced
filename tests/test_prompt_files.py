"""Prompts from a file: every form of it, and what is wrong with one is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import contract
from runner.errors import Fault, Refused
from runner.prompt import Entry, few, read_entries
from runner.prompt.entries import MAX_FILE_BYTES, MAX_PROMPTS
from tests import fakes, worlds

SECTIONS = ("subject", "background")
ONLY_CONTRACT = {"until": "contract"}
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, name: str, text: str | bytes) -> list[Entry]:
    return list(read_entries(write(folder, name, text), SECTIONS))


def short(entries: list[Entry]) -> list[tuple[str, str | None, dict[str, str]]]:
    return [(entry.line, entry.id, dict(entry.sections)) for entry in entries]


def said(folder: Path, name: str, text: str | bytes) -> list[str]:
    with pytest.raises(Refused) as refusal:
        read(folder, name, text)
    return [str(fault) for fault in refusal.value.faults]


# ---- what is read


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    text = "\ufeff# kettles\n\na red kettle\r\n  a blue one  \n#a comment\n\n"
    assert short(read(tmp_path, "p.txt", text)) == [
        ("p.txt:3", None, {"text": "a red kettle"}), ("p.txt:4", None, {"text": "a blue one"}),
    ]  # fmt: skip


def test_a_csv_file_has_a_column_of_prompts(tmp_path: Path) -> None:
    text = '\ufeffid,prompt\nfirst,"a red, round kettle"\n\n,"two\nlines, ""quoted"""\r\nlast,a\n'
    assert short(read(tmp_path, "p.csv", text)) == [
        ("p.csv:2", "first", {"text": "a red, round kettle"}),
        ("p.csv:4", None, {"text": 'two\nlines, "quoted"'}),
        ("p.csv:6", "last", {"text": "a"}),
    ]


def test_a_csv_file_has_a_column_for_each_section(tmp_path: Path) -> None:
    text = "background, subject ,id\non red,a kettle,k1\n,a cup,\n"
    assert short(read(tmp_path, "p.csv", text)) == [
        ("p.csv:2", "k1", {"background": "on red", "subject": "a kettle"}), ("p.csv:3", None, {"subject": "a cup"}),
    ]  # fmt: skip


def test_a_json_lines_file_has_texts_and_tables(tmp_path: Path) -> None:
    lines = ['"a kettle"', "", '{"id": "k2", "prompt": "a cup"}', '{"id": null, "sections": {"subject": "a lamp"}}']
    assert short(read(tmp_path, "p.jsonl", "\n".join(lines))) == [
        ("p.jsonl:1", None, {"text": "a kettle"}),
        ("p.jsonl:3", "k2", {"text": "a cup"}),
        ("p.jsonl:4", None, {"subject": "a lamp"}),
    ]


def test_lines_end_at_line_ends_alone(tmp_path: Path) -> None:
    entries = read(tmp_path, "p.txt", "a\u2028b\x0bc\x1cd\ne")
    assert [(entry.line, entry.sections["text"]) for entry in entries] == [
        ("p.txt:1", "a\u2028b\x0bc\x1cd"), ("p.txt:2", "e"),
    ]  # fmt: skip


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_any_text_survives_json_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    lines = "\n".join(json.dumps(text) for text in texts)
    entries = read(tmp_path_factory.mktemp("any"), "p.jsonl", lines)
    assert [entry.sections["text"] for entry in entries] == texts


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        ("p.xlsx", "a", ["prompt.file: {path} is of no kind that is known. "
                         "Name a file that ends in .csv, .jsonl, .txt."]),
        ("p.txt", "", ["p.txt: has no prompts. Write a prompt a line."]),
        ("p.txt", "# only\n\n", ["p.txt: has no prompts. Write a prompt a line."]),
        ("p.csv", "id,prompt\n", ["p.csv: has no prompts. Write a prompt a line."]),
        ("p.txt", b"a\nb\xe4\n", ["p.txt:2: is no UTF-8 (byte 0xe4). Save it as UTF-8."]),
        ("p.txt", "a".encode("utf-16"), ["p.txt: is UTF-16. Save it as UTF-8."]),
        ("p.csv", "prompt\na\n\0b", ["p.csv:3: has a NUL byte. Save it as UTF-8 text."]),
        ("p.txt", "a\n" + "b" * 20_001, ["p.txt:2: has 20001 characters in one line, 20000 are read. "
                                         "Look whether the line ends are missing."]),
        ("p.csv", "prompt\n" + "b" * 20_001, ["p.csv:2: has 20001 characters in one row, 20000 are read. "
                                              "Look whether a quote is missing."]),
        ("p.csv", 'prompt\n"a\n' + "b" * 140_000, [
            "p.csv:2: is no CSV (field larger than field limit (131072)). Write a quote inside quotes twice: \"\"."]),
        ("p.csv", 'prompt\n"a"b"\n', [
            "p.csv:2: is no CSV (',' expected after '\"'). Write a quote inside quotes twice: \"\"."]),
        ("p.csv", "prompt\na, b\nc\n", [
            "p.csv:2: has 2 values for 1 columns. Put a text that holds a comma in quotes: \"a, b\"."]),
        ("p.csv", "promt\na\n", [
            "p.csv:1: has a column 'promt' that is no section. "
            "Did you mean 'prompt'? Known: background, id, prompt, subject.",
            "p.csv:1: has no column that holds prompts, or both kinds of them. "
            "Name a column `prompt`, or columns of subject, background."]),
        ("p.csv", "prompt,subject\na,b\n", [
            "p.csv:1: has no column that holds prompts, or both kinds of them. "
            "Name a column `prompt`, or columns of subject, background."]),
        ("p.csv", "prompt,prompt\na,b\n", ["p.csv:1: has two columns 'prompt'. Give each column a name of its own."]),
        ("p.csv", "id,prompt\na b,c\nd,e\nd,f\n", [
            "p.csv:2: has the id 'a b'. Use letters, digits, `_`, `.` and `-`, at most 64 of them.",
            "p.csv:4: has the id 'd' again, after p.csv:3. Give each prompt an id of its own."]),
        ("p.jsonl", '{"prompt": "a"\n"b"', [
            'p.jsonl:1: is no JSON at character 15. Write "a text" or {"id": ..., "prompt": ...}.']),
        ("p.jsonl", "[" * 9000, ['p.jsonl:1: is no JSON. Write "a text" or {"id": ..., "prompt": ...}.']),
        ("p.jsonl", '{"text": "a"}\n7\n{"prompt": "a", "sections": {}}', [
            f"p.jsonl:{n}: is no prompt. Give exactly one of `prompt` and `sections`." for n in (1, 2, 3)]),
        ("p.jsonl", '{"prompt": "a", "seed": 7}', [
            "p.jsonl:1: has a key 'seed'. Known: id, prompt, sections."]),
        ("p.jsonl", '{"prompt": 7}\n{"sections": ["a"]}', [
            f"p.jsonl:{n}: is no prompt. `prompt` is a text, `sections` a table of texts." for n in (1, 2)]),
        ("p.jsonl", '{"sections": {"subject": 7}}', [
            "p.jsonl:1: has {'subject': 7} where a prompt stands. Write a text, or a text for each section."]),
        ("p.jsonl", '{"sections": {"backgruond": "a"}}', [
            "p.jsonl:1: has a section 'backgruond' that prompt.sections does not list. "
            "Did you mean 'background'? Known: background, subject."]),
        ("p.jsonl", '{"id": 7, "prompt": "a"}', [
            "p.jsonl:1: has the id 7. Use letters, digits, `_`, `.` and `-`, at most 64 of them."]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_by_line(
    tmp_path: Path, name: str, text: str | bytes, messages: list[str]
) -> None:
    assert said(tmp_path, name, text) == [line.replace("{path}", str(tmp_path / name)) for line in messages]


def test_all_faults_of_a_file_are_told_but_no_more_than_twenty(tmp_path: Path) -> None:
    messages = said(tmp_path, "p.jsonl", "\n".join(["{"] * 50))
    assert len(messages) == 21
    assert messages[-1] == "p.jsonl:21: and 29 more have faults like these. Mend those that are shown, then ask again."


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(Refused, match=r"p\.txt: is larger than 64 MiB\. Split the file"):
        read_entries(path, SECTIONS)


def test_a_file_of_too_many_prompts_is_refused_where_they_begin(tmp_path: Path) -> None:
    text = "\n".join(str(number) for number in range(MAX_PROMPTS + 5))
    assert said(tmp_path, "p.txt", text) == ["p.txt:100001: is prompt 100001 of the file. Split the file."]


def test_a_folder_is_no_prompt_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").mkdir()
    with pytest.raises(Refused, match=r"^- prompt\.file: .*p\.txt cannot be read \(Is a directory\)"):
        read_entries(tmp_path / "p.txt", SECTIONS)


def test_few_keeps_twenty_of_each_code() -> None:
    faults = [Fault(code, f"{code}{n}", "w", "f") for n in range(25) for code in ("a", "b")] + [Fault("c", "c", "", "")]
    kept = few(faults)
    assert [sum(fault.code == code for fault in kept) for code in "abc"] == [21, 21, 1]
    assert [fault.what for fault in kept[-2:]] == ["and 4 more have faults like these"] * 2


# ---- in a request


def from_file(path: Path, **changes: object) -> dict[str, object]:
    return {"prompt.items": None, "prompt.file": str(path), **changes}


def test_a_file_gives_the_prompts_that_items_would_have_given(tmp_path: Path) -> None:
    inline = contract.check(fakes.request({}, "demo_base"))
    lines = [json.dumps({"id": item["id"], "sections": item["sections"]}) for item in
             fakes.composed("demo_base")["prompt"]["items"]]  # fmt: skip
    path = write(tmp_path, "p.jsonl", "\n".join(lines))
    filed = contract.check(fakes.request(from_file(path), "demo_base"))
    assert [(p.key, p.text) for p in filed.prompts] == [(p.key, p.text) for p in inline.prompts]
    assert [p.where for p in filed.prompts][:2] == ["p.jsonl:1", "p.jsonl:2"]
    assert [count.as_dict() for count in filed.tokens] == [count.as_dict() for count in inline.tokens]


def identity(outputs: Path, path: Path) -> str:
    words = ("+experiment=demo_base", "prompt=from_file", f"prompt.file={path}", "critic=none", "stages=[generate]")
    return worlds.accept(outputs, base=words).plan.identity


def test_a_run_is_named_by_what_the_file_holds_and_not_by_its_path(tmp_path: Path) -> None:
    first = write(tmp_path, "a.csv", "id,prompt\none,a red star\n")
    moved = write(tmp_path, "b.jsonl", '{"prompt": "a red star", "id": "one"}\n\n')
    other = write(tmp_path, "c.csv", "id,prompt\none,a blue star\n")
    same, elsewhere, changed = (identity(tmp_path, path) for path in (first, moved, other))
    assert same == elsewhere
    assert changed != same


def test_a_named_run_says_which_prompts_of_its_file_changed(tmp_path: Path) -> None:
    words = ("+experiment=demo_base", "prompt=from_file", "critic=none", "stages=[generate]", "track=none")
    path = write(tmp_path, "p.csv", "id,prompt\none,a red star\ntwo,a cyan star\n")
    folder = worlds.run(worlds.accept(tmp_path / "outputs", base=(*words, f"prompt.file={path}"))).folder
    other = write(tmp_path, "q.csv", "id,prompt\none,a blue star\ntwo,a cyan star\n")
    again = worlds.accept(tmp_path / "outputs", base=(*words, f"prompt.file={other}", f"run.id={folder.name}"))
    with pytest.raises(Refused) as refusal:
        worlds.run(again)
    assert [fault.what for fault in refusal.value.faults] == [
        f"prompt.file: was {str(path)!r}, is {str(other)!r}", "prompt.one: was 'a red star', is 'a blue star'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt.file": "p.txt"}, "prompt.items: is given, and prompt.file too. "
                                   "Choose prompt=from_file, or add prompt.items=null."),
        ({"prompt.items": None}, "prompt.items: is null, and so is prompt.file. Give one of them."),
        ({"prompt.items": None, "prompt.file": "no/where.csv"},
         "prompt.file: no/where.csv is not there. Set prompt.file to a .csv, .jsonl or .txt file."),
    ],
)  # fmt: skip
def test_exactly_one_of_items_and_file_is_wanted(changes: dict[str, object], message: str) -> None:
    assert fakes.said(fakes.request(changes, "demo_base")) == [message]


def test_the_faults_of_a_file_come_with_those_of_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, "p.csv", "prompt\na,b\n")
    messages = fakes.said(fakes.request(from_file(path, **{"generate.scheduler": "NoScheduler"}), "demo_base"))
    assert [line.split(":")[0] for line in messages] == ["p.csv", "generate.scheduler"]


def test_what_the_contract_says_of_a_prompt_names_its_line(tmp_path: Path) -> None:
    long = "a red star " * 60
    path = write(tmp_path, "p.txt", f"a red star\n{long}\na <emblm>\n a red <lora:x:1> star\n")
    messages = fakes.said(fakes.request(from_file(path, **ONLY_CONTRACT), "demo_base"))
    assert [line.partition(" ")[0] for line in messages] == ["p.txt:3:", "p.txt:4:", "p.txt:2:"]


def test_two_lines_with_one_text_are_doubled(tmp_path: Path) -> None:
    path = write(tmp_path, "p.txt", "a red star\na blue star\na red star\n")
    (message,) = fakes.said(fakes.request(from_file(path), "demo_base"))
    assert message.startswith("p.txt:3: is named 'a-red-star-")
    assert message.endswith("' again, after p.txt:1. Give each prompt an id of its own.")


def test_a_slot_in_a_file_without_a_trigger_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "p.txt", "a {trigger}\n")
    (message,) = fakes.said(fakes.request(from_file(path), "demo_base"))
    assert message.startswith("prompt.file: of set shapes have {trigger}, and trigger is none.")


def test_a_thousand_faults_are_told_in_a_screenful(tmp_path: Path) -> None:
    lines = [f"star {number} " + "red " * (80 + number % 50) for number in range(1000)]
    path = write(tmp_path, "p.txt", "\n".join(lines))
    messages = fakes.said(fakes.request(from_file(path, **{"prompt.budget.max": 500}), "demo_base"))
    assert len(messages) == 21
    assert messages[-1].startswith("p.txt:21: and 979 more have faults like these.")
