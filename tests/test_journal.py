"""The manifest and the event log: the line is the commit, and no line can change unseen."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import journal, store
from runner.errors import Corrupt, Failed, Fault

OWNER = {"pid": 1, "process_started": 0.0, "host": "here", "run_id": "r", "role": "generator"}
EVENTS = st.one_of(
    st.just({"event": "started", "owner": OWNER}),
    st.builds(lambda s: {"event": "status", "status": s}, st.sampled_from(journal.RUNNING)),
    st.builds(lambda k: {"event": "made", "key": k, "object": "o", "step": "s"}, st.sampled_from("abc")),
    st.builds(lambda k: {"event": "unmade", "key": k, "step": "s", "reason": "é\n\r"}, st.sampled_from("abc")),
    st.builds(lambda s: {"event": "ended", "status": s, "timings": {}}, st.sampled_from(journal.ENDED)),
    st.just({"event": "proved", "difference": 0.25}),
)
ZERO = "0" * 64
REQUEST = {"name": "demo", "generate": {"width": 64, "height": 64}}
WHOLE: dict[str, Any] = {key: {} for key in journal.REQUIRED} | {
    "run_id": "demo-1", "request": REQUEST, "prompts": [], "images": [],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with a manifest and three lines."""
    run = tmp_path / "runs" / "demo-1"
    run.mkdir(parents=True)
    log, _ = journal.open_log(run, journal.write_manifest(run, WHOLE), list)
    log.append({"event": "started", "owner": OWNER})
    log.append({"event": "made", "key": "image/a", "object": "o", "step": "s"})
    log.append({"event": "made", "key": "image/b", "object": "o", "step": "s"})
    return run


def lines(folder: Path) -> list[bytes]:
    return (folder / journal.JOURNAL).read_bytes().splitlines(keepends=True)


def reopen(folder: Path) -> tuple[journal.Journal, list[journal.Event]]:
    return journal.open_log(folder, journal.manifest_digest(folder), list)


def bare(events: list[journal.Event]) -> list[dict[str, Any]]:
    """Events without what the journal adds to them."""
    return [{k: v for k, v in event.items() if k not in ("n", "at", "prev", "hash")} for event in events]


# ---- append and read


@given(st.lists(st.lists(EVENTS, max_size=3), max_size=4))
def test_what_is_appended_is_read_whatever_the_pieces_and_the_reopenings(pieces: list[list[dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        for piece in pieces:
            log, _ = journal.open_log(Path(place), ZERO, list)
            log.append(*piece)
        reading = journal.read_events(Path(place))
    assert (bare(reading.events), reading.problem) == ([event for piece in pieces for event in piece], None)
    hashes = [event["hash"] for event in reading.events]
    assert [event["prev"] for event in reading.events] == [ZERO, *hashes][: len(hashes)]
    assert [event["n"] for event in reading.events] == list(range(len(hashes)))


def test_a_line_has_one_form_and_one_hash(tmp_path: Path) -> None:
    line = {"at": "2026-01-01T00:00:00.000+00:00", "event": "started", "n": 0, "owner": None, "prev": ZERO}
    line["hash"] = "1f29a055f1c756a4a47ae1f2c61fc3d7dc0aca7ea582540e9093652c45df8948"
    (tmp_path / journal.JOURNAL).write_bytes(store.canonical(line) + b"\n")
    assert journal.read_events(tmp_path).events == [line]


def test_each_line_is_canonical(folder: Path) -> None:
    assert all(store.canonical(json.loads(line)) + b"\n" == line for line in lines(folder))


def test_watchers_hear_of_a_line_after_it_is_written(folder: Path) -> None:
    log, _ = reopen(folder)
    heard: list[tuple[str, int]] = []
    log.watchers.append(lambda event: heard.append((event["event"], len(lines(folder)))))
    log.append({"event": "status", "status": "loading"}, {"event": "status", "status": "warming"})
    assert heard == [("status", 5), ("status", 5)]


def test_no_events_are_no_line_and_no_news(folder: Path) -> None:
    log, _ = reopen(folder)
    before = lines(folder)
    log.watchers.append(lambda event: pytest.fail("told of nothing"))
    log.append()
    assert (lines(folder), log.next_number) == (before, 3)


def test_a_watcher_that_breaks_is_told_no_more_and_the_others_are(folder: Path) -> None:
    log, _ = reopen(folder)
    heard: list[str] = []

    def closed_terminal(event: journal.Event) -> None:
        heard.append("broken")
        raise BrokenPipeError

    log.watchers += [closed_terminal, lambda event: heard.append(event["event"])]
    log.append({"event": "proved"}, {"event": "proved"})
    assert heard == ["broken", "proved", "proved"]
    assert len(journal.read_events(folder).events) == 5


def test_a_stop_waits_for_the_commit_under_way_and_comes_after_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = reopen(folder)
    write, heard = journal.Journal._write, [0]

    def signalled(of: journal.Journal, data: bytes) -> None:
        of.interrupt(KeyboardInterrupt("stop"))
        write(of, data)

    monkeypatch.setattr(journal.Journal, "_write", signalled)
    log.watchers.append(lambda event: heard.append(event["n"]))
    with pytest.raises(KeyboardInterrupt, match=r"^stop$"):
        log.append({"event": "proved"}, {"event": "proved"})
    assert (heard, len(journal.read_events(folder).events), log.next_number) == ([0, 3, 4], 5, 5)


def test_a_stop_between_commits_comes_at_once(folder: Path) -> None:
    log, _ = reopen(folder)
    with pytest.raises(KeyboardInterrupt, match=r"^stop$"):
        log.interrupt(KeyboardInterrupt("stop"))


def test_a_missing_journal_reads_as_no_events(tmp_path: Path) -> None:
    assert journal.read_events(tmp_path) == journal.Reading([], 0, None)


# ---- a torn last line


def test_a_last_line_torn_at_any_byte_is_cut_and_the_chain_goes_on(folder: Path) -> None:
    path, whole = folder / journal.JOURNAL, lines(folder)
    for length in range(len(whole[-1])):
        path.write_bytes(b"".join(whole[:-1]) + whole[-1][:length])
        log, events = reopen(folder)
        assert bare(events)[-1]["key"] == "image/a"
        log.append({"event": "made", "key": "image/c", "object": "o", "step": "s"})
        reading = journal.read_events(folder)
        assert (reading.problem, bare(reading.events)[-1]["key"], len(reading.events)) == (None, "image/c", 3)


def test_a_line_that_could_not_be_written_does_not_break_the_chain(folder: Path) -> None:
    log, _ = reopen(folder)
    path = folder / journal.JOURNAL
    path.rename(folder / "aside")
    path.mkdir()
    with pytest.raises(Failed, match=r"journal\.jsonl: has \d+ bytes where this attempt left 793: something else"):
        log.append({"event": "made", "key": "image/c", "object": "o", "step": "s"})
    path.rmdir()
    (folder / "aside").rename(path)
    log.append({"event": "ended", "status": "failed"})
    assert journal.read_events(folder).problem is None


# ---- altered by hand


@pytest.mark.parametrize(
    ("alter", "problem"),
    [
        (lambda w: [w[0], w[1].replace(b"image/a", b"image/x"), w[2]],
         "line 2 was altered: its hash is not that of its content"),
        (lambda w: [w[0], w[1], w[2].replace(b'"n":2', b'"n":3')],
         "line 3 was altered: its hash is not that of its content"),
        (lambda w: [w[0], w[2]], "line 2 does not follow the line before it: lines are missing or were moved"),
        (lambda w: [w[1], w[2]], "line 1 has the wrong number"),
        (lambda w: [w[0], w[2], w[1]], "line 2 does not follow the line before it: lines are missing or were moved"),
        (lambda w: [w[0], w[1], w[1], w[2]],
         "line 3 does not follow the line before it: lines are missing or were moved"),
        (lambda w: [w[0], b"hello\n", w[1], w[2]], "line 2 is not one of our lines"),
        (lambda w: [w[0], b"\n", w[1], w[2]], "line 2 is not one of our lines"),
        (lambda w: [w[0], b"[]\n", w[1], w[2]], "line 2 is not one of our lines"),
        (lambda w: [w[0], b"\xff\n", w[1], w[2]], "line 2 is not one of our lines"),
        (lambda w: [w[0], b"[" * 100_000 + b"\n", w[1], w[2]], "line 2 is not one of our lines"),
    ],
)  # fmt: skip
def test_an_altered_journal_is_found_and_left_alone(
    folder: Path, alter: Callable[[list[bytes]], list[bytes]], problem: str
) -> None:
    data = b"".join(alter(lines(folder)))
    (folder / journal.JOURNAL).write_bytes(data)
    with pytest.raises(Corrupt) as error:
        reopen(folder)
    assert error.value.faults[0].what == problem
    assert (folder / journal.JOURNAL).read_bytes() == data


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_one_wrong_byte_in_a_whole_line_never_reads_as_another_history(place: int, byte: int) -> None:
    with tempfile.TemporaryDirectory() as there:
        log, _ = journal.open_log(Path(there), ZERO, list)
        log.append({"event": "started", "owner": OWNER}, {"event": "proved"}, {"event": "proved"})
        before = journal.read_events(Path(there)).events
        data = bytearray((Path(there) / journal.JOURNAL).read_bytes())
        data[place % (len(data) - 1)] = byte
        (Path(there) / journal.JOURNAL).write_bytes(data)
        after = journal.read_events(Path(there))
    assert after.events == before or after.problem is not None


def test_a_journal_belongs_to_its_manifest(folder: Path) -> None:
    (folder / journal.MANIFEST).write_bytes(store.canonical({**WHOLE, "run_id": "demo-2"}))
    with pytest.raises(Corrupt, match=r"manifest\.json: is not the one that the journal began with\. Nothing was ch"):
        reopen(folder)


def test_a_run_under_another_manifest_is_read_with_its_problem(folder: Path) -> None:
    (folder / journal.MANIFEST).write_bytes(store.canonical({**WHOLE, "run_id": "demo-2"}))
    assert journal.read_run(folder).problem == "the manifest is not the one that the journal began with"


# ---- the seal


@pytest.fixture
def sealed(folder: Path) -> Path:
    log, _ = reopen(folder)
    journal.seal(folder, log)
    return folder


def test_a_sealed_journal_is_sound_and_may_go_on(sealed: Path) -> None:
    log, _ = reopen(sealed)
    log.append({"event": "proved"})
    assert journal.read_run(sealed).problem is None
    assert len(journal.read_events(sealed).events) == 4


@pytest.mark.parametrize("num_lines", [0, 1, 2])
def test_a_journal_that_lost_its_end_after_the_seal_shows_it(sealed: Path, num_lines: int) -> None:
    (sealed / journal.JOURNAL).write_bytes(b"".join(lines(sealed)[:num_lines]))
    problem = f"is cut short: it has {num_lines} lines and had at least 3"
    assert journal.read_run(sealed).problem == problem
    with pytest.raises(Corrupt, match=rf"journal\.jsonl: {problem}\. Nothing was changed"):
        reopen(sealed)


def test_a_journal_that_is_gone_after_the_seal_shows_it(sealed: Path) -> None:
    (sealed / journal.JOURNAL).unlink()
    assert journal.read_run(sealed).problem == "is cut short: it has 0 lines and had at least 3"


def test_another_history_of_the_same_length_is_not_the_sealed_one(sealed: Path) -> None:
    (sealed / journal.JOURNAL).unlink()
    (sealed / journal.SEAL).rename(sealed / "aside")
    log, _ = reopen(sealed)
    log.append({"event": "proved"}, {"event": "proved"}, {"event": "proved"})
    (sealed / "aside").rename(sealed / journal.SEAL)
    assert journal.read_run(sealed).problem == "is not the one that was sealed when the run ended"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"\xff", b'{"n":"2","hash":""}'])
def test_a_seal_that_cannot_be_read_is_a_problem(sealed: Path, data: bytes) -> None:
    (sealed / journal.SEAL).write_bytes(data)
    assert journal.read_run(sealed).problem == "has a seal.json beside it that cannot be read"


# ---- the manifest


def test_a_manifest_is_written_once(folder: Path) -> None:
    with pytest.raises(Corrupt, match=r"manifest\.json: is already written\. Leave it; start a new run\."):
        journal.write_manifest(folder, {})
    assert journal.read_manifest(folder) == WHOLE


@pytest.mark.parametrize(
    "data",
    [
        b"{", b"\xff", b"[]", b"[" * 100_000, b'{"run_id": "demo-1"}', store.canonical({"run_id": "demo-1"}),
        json.dumps(WHOLE).encode(), store.canonical(WHOLE) + b"\n",
        *(store.canonical({key: WHOLE[key] for key in WHOLE if key != left_out}) for left_out in WHOLE),
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_the_json_we_wrote_is_corrupt(folder: Path, data: bytes) -> None:
    (folder / journal.MANIFEST).write_bytes(data)
    with pytest.raises(Corrupt, match=r"manifest\.json: .*Nothing was changed"):
        journal.read_manifest(folder)


def test_a_missing_manifest_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=r"manifest\.json: cannot be read .*No such file"):
        journal.read_run(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_storage_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Failed, match=r"cannot be written \(Not a directory\)") as error:
        journal.write_manifest(tmp_path / "file" / "run", {})
    assert error.value.kind == "storage"


# ---- fold


def event(kind: str, **facts: Any) -> journal.Event:
    return {"event": kind, "at": facts.pop("at", "t"), **facts}


def test_no_events_are_a_planned_run() -> None:
    assert journal.fold([]) == journal.State()
    assert not journal.fold([]).open


def test_the_last_word_on_an_item_counts() -> None:
    words = [("unmade", "a"), ("made", "a"), ("unmade", "b")]
    state = journal.fold([event(kind, key=key, step="s") for kind, key in words])
    assert (sorted(state.items), sorted(state.made())) == (["a", "b"], ["a"])


def test_a_second_attempt_opens_the_run_again_and_keeps_its_first_start() -> None:
    first = [
        event("started", owner=OWNER, at="1"),
        event("ended", status="failed", failure={"what": "w", "fix": "f"}, at="2"),
    ]
    ended = journal.fold(first)
    early = {"what": "w", "fix": "f", "cause": "w", "hint": "f"}
    again = journal.fold([*first, event("started", owner=OWNER, at="3")])
    assert (ended.open, ended.status, ended.failure, ended.ended) == (False, "failed", early, "2")
    assert (again.open, again.status, again.failure, again.ended) == (True, "planned", None, None)
    assert (again.attempts, again.started, again.last_event) == (2, "1", "3")


@given(st.lists(EVENTS, max_size=12))
def test_folding_adds_up_and_never_invents(events: list[dict[str, Any]]) -> None:
    state = journal.fold([{**one, "at": str(n)} for n, one in enumerate(events)])
    kinds = [one["event"] for one in events]
    assert state.attempts == kinds.count("started")
    assert state.items.keys() == {one["key"] for one in events if "key" in one}
    assert state.status in {*journal.RUNNING, *journal.ENDED}
    assert state.last_event == (str(len(events) - 1) if events else None)


def test_an_open_run_whose_writer_is_gone_has_crashed(folder: Path) -> None:
    run = journal.read_run(folder)
    assert run.status(lambda *who: who == (folder, OWNER)) == "planned"
    assert (run.status(lambda *who: True), run.status(lambda *who: False)) == ("planned", "crashed")


def test_an_ended_run_has_not_crashed_although_its_writer_is_gone(folder: Path) -> None:
    log, _ = reopen(folder)
    log.append({"event": "ended", "status": "complete"})
    assert journal.read_run(folder).status(lambda *who: False) == "complete"


# ---- strange files, and what was read before


def test_nothing_is_appended_to_a_torn_line_that_could_not_be_cut(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = reopen(folder)

    def half(self: journal.Journal, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data[: len(data) // 2])
        raise Failed("storage", Fault("storage_failed", "journal", "cannot be written (disk full)", "Free space"))

    def uncut(path: Path, size: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "_write", half)
        patch.setattr(os, "truncate", uncut)
        for _ in range(2):
            with pytest.raises(Failed, match=r"disk full|Input/output error"):
                log.append({"event": "proved"})
    log.append({"event": "proved"})
    assert (journal.read_events(folder).problem, len(journal.read_events(folder).events)) == (None, 4)


def test_a_line_of_another_process_is_not_built_upon(folder: Path) -> None:
    log, _ = reopen(folder)
    other, _ = reopen(folder)
    other.append({"event": "proved"})
    with pytest.raises(Failed, match="something else wrote into it"):
        log.append({"event": "proved"})
    assert (journal.read_events(folder).problem, len(lines(folder))) == (None, 4)


def test_a_pipe_or_a_folder_in_place_of_a_journal_is_a_problem_and_waited_for_by_nobody(folder: Path) -> None:
    path = folder / journal.JOURNAL
    path.unlink()
    os.mkfifo(path)
    assert journal.read_run(folder).problem == "cannot be read (is no regular file)"
    path.unlink()
    path.mkdir()
    with pytest.raises(Corrupt, match="cannot be read"):
        reopen(folder)


@pytest.mark.parametrize("change", ["gone", "shorter", "another"])
def test_a_journal_that_changed_behind_what_was_read_is_told(folder: Path, change: str) -> None:
    read, path = journal.follow_run(folder, slim=True), folder / journal.JOURNAL
    assert read().problem is None
    data = path.read_bytes()
    (folder / "new").write_bytes(data if change == "another" else data[:10])
    (folder / "new").rename(path)
    if change == "gone":
        path.unlink()
    told = {"gone": "is gone since it was read", "shorter": "another or a shorter", "another": "another or a shorter"}
    assert told[change] in (read().problem or "")


ODD = [
    {"event": "made", "step": "s"}, {"event": "made", "key": "k", "object": 5, "step": "s"}, {"event": "status"},
    {"event": "made", "key": "k", "object": "o", "step": "s", "facts": []}, {"event": "ended"},
    {"event": "made", "key": "k", "object": "o", "step": "s", "facts": {"scores": [1]}}, {"event": "started"},
]  # fmt: skip


@pytest.mark.parametrize("line", ODD, ids=[str(number) for number in range(len(ODD))])
def test_a_chained_line_that_no_run_writes_is_a_problem_and_no_traceback(folder: Path, line: dict[str, Any]) -> None:
    log, _ = reopen(folder)
    log.append(line)
    assert "line 4 is no event of a run" in (journal.read_run(folder).problem or "")
    with pytest.raises(Corrupt, match="line 4 is no event of a run"):
        journal.open_log(folder, journal.manifest_digest(folder), journal.fold)


@pytest.mark.parametrize("request_", [{}, {"name": "x"}, {"name": "x", "generate": {}}, []])
def test_a_manifest_of_another_shape_is_corrupt(folder: Path, request_: object) -> None:
    (folder / journal.MANIFEST).write_bytes(store.canonical({**WHOLE, "request": request_}))
    with pytest.raises(Corrupt, match="is not the canonical JSON that a run writes"):
        journal.read_manifest(folder)
