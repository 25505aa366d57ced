"""`import`: images from elsewhere with where they come from; anything else is a reason, never a traceback or a half."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runner import journal, ledger, store
from runner.errors import Corrupt, Refused, Unavailable
from runner.verbs import bring as bringing
from runner.verbs import foreign_image
from runner.verbs.bring import About, bring
from tests import fakes, worlds
from tests.verbs import small_runs

ABOUT = About("https://example.org/collection/7", "CC-BY-4.0")


def picture(colour: int = 0, kind: str = "PNG", size: tuple[int, int] = (8, 8), **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (colour % 256, colour // 256, 9)).save(buffer, kind, **how)
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), (n, n, n)) for n in (0, 90)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of 60 bytes whose header claims any size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 9)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, body, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def take(
    outputs: Path, *places: Path, about: About = ABOUT, strict: bool = False, again: bool = False
) -> dict[str, Any]:
    value = bring(outputs, places, about, strict=strict, again=again)
    json.dumps(value)
    return value


def statuses(value: dict[str, Any]) -> list[str]:
    return [row["status"] for row in value["images"]]


def lines(outputs: Path) -> list[journal.Event]:
    return journal.read_events(outputs / ledger.FOLDER).events


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "summer.png"
    path.write_bytes(picture(1))
    return path


# ---- one image


def test_an_image_becomes_an_object_and_one_line_with_its_provenance(outputs: Path, file: Path) -> None:
    value = take(outputs, file, about=replace(ABOUT, note="by hand", prompt="a red square"))
    (line,) = lines(outputs)
    digest = store.digest(file.read_bytes())
    assert value["images"][0].items() >= {"status": "imported", "digest": digest, "reason": None}.items()
    assert line.items() >= {
        "event": "imported", "object": digest, "bytes": len(file.read_bytes()), "width": 8, "height": 8,
        "media_type": "image/png", "name": "summer.png", "source": "https://example.org/collection/7",
        "license": "CC-BY-4.0", "note": "by hand", "prompt": "a red square", "says": {},
    }.items()  # fmt: skip
    assert (bool(line["user"]), worlds.objects_of(outputs)) == (True, {digest: file.read_bytes()})


def test_the_source_is_not_touched_and_no_record_says_where_it_lay(outputs: Path, file: Path) -> None:
    before = worlds.snapshot(file.parent)
    take(outputs, file)
    assert {name: facts for name, facts in worlds.snapshot(file.parent).items() if name == file.name} == before
    assert all(str(file.parent).encode() not in path.read_bytes() for path in outputs.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("MPO", "image/jpeg")],
)
def test_an_image_is_known_by_its_bytes_and_not_by_its_name(
    outputs: Path, tmp_path: Path, kind: str, media_type: str
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(picture(1, kind))
    (row,) = take(outputs, path)["images"]
    assert (row["status"], row["media_type"], row["width"]) == ("imported", media_type, 8)


def test_what_the_file_says_of_itself_is_kept_as_safe_text(outputs: Path, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20 \x1b[31m")
    info.add_text("prompt", "x" * 9_000)
    info.add_text("secret", "is not kept")
    exif = Image.Exif()
    exif[315], exif[305], exif[306] = "Ada", "GIMP", "2024:01:02 03:04:05"
    (tmp_path / "a.png").write_bytes(picture(1, pnginfo=info, exif=exif))
    take(outputs, tmp_path / "a.png")
    says = lines(outputs)[0]["says"]
    assert says["parameters"] == "a cat\nSteps: 20 \\x1b[31m"
    assert (len(says["prompt"]), says["prompt"][-1]) == (foreign_image.MAX_CHARS, "…")
    exif_says = {name: text for name, text in says.items() if name.startswith("exif.")}
    assert exif_says == {"exif.Artist": "Ada", "exif.Software": "GIMP", "exif.DateTime": "2024:01:02 03:04:05"}
    assert "secret" not in says


def test_the_prompt_that_a_web_interface_wrote_into_a_jpeg_is_read(outputs: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a dog, 漢".encode("utf-16-be")
    (tmp_path / "a.jpg").write_bytes(picture(1, "JPEG", exif=exif))
    take(outputs, tmp_path / "a.jpg")
    assert lines(outputs)[0]["says"] == {"exif.UserComment": "a dog, 漢"}


def test_our_own_picture_says_what_made_it(outputs: Path, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("runner", '{"seed":7}')
    (tmp_path / "a.png").write_bytes(picture(1, pnginfo=info))
    take(outputs, tmp_path / "a.png")
    assert lines(outputs)[0]["says"] == {"runner": '{"seed":7}'}


# ---- again and again


def test_the_same_image_twice_is_one_object_and_one_line(outputs: Path, file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(file.read_bytes())
    assert statuses(take(outputs, file, copy)) == ["imported", "known"]
    before = worlds.snapshot(outputs)
    value = take(outputs, copy)
    assert (statuses(value), value["images"][0]["reason"], value["ok"]) == (["known"], "imported before", True)
    unlocked = {name: facts for name, facts in worlds.snapshot(outputs).items() if name != "ledger/lock"}
    assert unlocked == {name: facts for name, facts in before.items() if name != "ledger/lock"}


def test_other_words_about_an_image_are_a_new_line_and_the_last_one_counts(outputs: Path, file: Path) -> None:
    take(outputs, file)
    assert statuses(take(outputs, file, about=replace(ABOUT, license="CC0"))) == ["amended"]
    digest = store.digest(file.read_bytes())
    assert (len(lines(outputs)), ledger.read(outputs).imports[digest]["license"]) == (2, "CC0")


def test_an_image_of_a_run_is_known_and_adds_no_line(outputs: Path, tmp_path: Path) -> None:
    run = worlds.finished(outputs)
    digest = run.images()[0]["digest"]
    (tmp_path / "a.png").write_bytes(worlds.objects_of(outputs)[digest])
    (row,) = take(outputs, tmp_path / "a.png")["images"]
    assert (row["status"], row["reason"], lines(outputs)) == ("known", f"an image of runs/{run.id}", [])


def test_a_known_image_whose_bytes_are_gone_or_others_gets_them_back_with_a_record(outputs: Path, file: Path) -> None:
    digest = take(outputs, file)["images"][0]["digest"]
    path = store.Store(outputs / "objects").path(digest)
    for kind, harm in (("missing", path.unlink), ("altered", lambda: path.write_bytes(b"?"))):
        harm()
        (row,) = take(outputs, file)["images"]
        assert (row["status"], row["reason"]) == ("repaired", f"imported before; its bytes were {kind}")
        assert path.read_bytes() == file.read_bytes()
    assert [(event["kind"], event["name"]) for event in ledger.read(outputs).repairs] == [
        ("missing", digest), ("altered", digest),
    ]  # fmt: skip


def test_a_deleted_image_comes_back_only_when_told(outputs: Path, file: Path) -> None:
    digest = take(outputs, file)["images"][0]["digest"]
    small_runs.tell(outputs, {"event": "tombstoned", "object": digest, "records": ["ledger"], "reason": "no licence"})
    value = take(outputs, file)
    assert (statuses(value), value["ok"]) == (["deleted"], False)
    assert value["images"][0]["reason"].endswith("because: no licence; --again takes it back")
    assert statuses(take(outputs, file, file, again=True)) == ["imported", "known"]
    assert not ledger.read(outputs).tombstones


# ---- what is no image


def _text(path: Path) -> None:
    path.write_text("hello")


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero.png": (_bytes(b""), "is empty"),
    "text.png": (_text, "is no PNG, JPEG or WebP: it begins with 'hello'"),
    "escape.png": (_bytes(b"\x1b[2J\xff"), r"it begins with '\\x1b\[2J\\xff'"),
    "torn.png": (_bytes(picture(1, size=(64, 64))[:-40]), "does not decode"),
    "torn.jpg": (_bytes(picture(1, "JPEG")[:-300]), "does not decode"),
    "torn.webp": (_bytes(picture(1, "WEBP")[:-9]), "does not decode"),
    "head.png": (_bytes(picture(1)[:20]), "does not decode|is no PNG"),
    "bomb.png": (_bytes(png_that_claims(60_000, 60_000)), "claims too many pixels"),
    "large.png": (_bytes(png_that_claims(10_000, 10_000)), "claims too many pixels"),
    "nothing.png": (_bytes(png_that_claims(0, 8)), "does not decode|is no PNG"),
    "few.png": (_bytes(png_that_claims(100, 100)), "does not decode"),
    "moving.gif": (_bytes(animation("GIF")), "is a GIF; PNG, JPEG and WebP are taken"),
    "moving.png": (_bytes(animation("PNG")), "is an animation of 2 frames"),
    "moving.webp": (_bytes(animation("WEBP")), "is an animation of 2 frames"),
    "a.bmp": (_bytes(picture(1, "BMP")), "is a BMP"),
    "a.tiff": (_bytes(picture(1, "TIFF")), "is a TIFF"),
    "a.svg": (_bytes(b"<svg/>"), "is an SVG"),
    "lfs.png": (_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
    "pipe": (os.mkfifo, r"cannot be read \(is no regular file\)"),
    "dangling": (lambda path: path.symlink_to("nowhere.png"), "cannot be read .No such file"),
    "loop": (lambda path: path.symlink_to("loop"), "cannot be read .Too many levels of symbolic links"),
    "up": (lambda path: path.symlink_to("..", target_is_directory=True), r"cannot be read \(Is a directory\)"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_image_gets_a_row_with_the_reason_and_changes_nothing(
    outputs: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    make, reason = ODD[name]
    make(tmp_path / "in" / name)
    value = take(outputs, tmp_path / "in")
    assert (statuses(value), value["ok"], outputs.exists()) == (["refused"], False, False)
    with pytest.raises(Refused, match=reason):
        take(outputs, tmp_path / "in", strict=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything")
def test_a_file_that_may_not_be_read_gets_a_row(outputs: Path, file: Path) -> None:
    file.chmod(0)
    assert "Permission denied" in take(outputs, file)["images"][0]["reason"]


def test_two_hundred_files_of_every_kind(outputs: Path, tmp_path: Path) -> None:
    folder, chance, good = tmp_path / "in", random.Random(5), {}
    (folder / "inner" / "漢字 été").mkdir(parents=True)
    for name, (make, _) in ODD.items():
        make(folder / name)
    for number in range(98):
        data = picture(number % 49, ("PNG", "JPEG", "WEBP")[number % 49 % 3], size=(16, 16))  # each twice
        (folder / "inner" / "漢字 été" / f"\u202e{number}\n.png").write_bytes(data)
        good[store.digest(data)] = data
    for number in range(80):
        damaged = bytearray(picture(1000 + number, size=(16, 16)))
        damaged[chance.randrange(33, 50)] ^= 1 + chance.randrange(255)  # in the pixels: the checksum tells
        (folder / f"{number}.png").write_bytes(damaged)
    value = take(outputs, folder)
    assert (len(value["images"]), statuses(value).count("imported"), statuses(value).count("known")) == (200, 49, 49)
    assert worlds.objects_of(outputs) == good
    assert sorted(ledger.read(outputs).imports) == sorted(good)
    assert bringing.text(value).isprintable() is False and "\u202e" not in bringing.text(value)
    assert statuses(take(outputs, folder)).count("known") == 98


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), at=st.floats(0, 1, exclude_max=True), bytes_=st.binary(max_size=6),
    cut=st.booleans(),
)  # fmt: skip
def test_no_bytes_bring_the_examiner_down(kind: str, at: float, bytes_: bytes, cut: bool) -> None:
    data = picture(1, kind)
    place = int(at * len(data))
    changed = data[:place] + bytes_ + (b"" if cut else data[place + len(bytes_) :])
    found = foreign_image._decode(changed)
    assert isinstance(found, str) or found[:2] == (8, 8) or min(found[:2]) > 0


def test_hidden_files_of_a_folder_are_not_taken_but_one_that_is_named_is(outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / ".cache").mkdir(parents=True)
    for name in (".a.png", ".cache/b.png"):
        (tmp_path / "in" / name).write_bytes(picture(1))
    value = take(outputs, tmp_path / "in")
    assert (value, bringing.text(value)) == ({"ok": True, "images": []}, "0 files: no file was found there")
    assert statuses(take(outputs, tmp_path / "in" / ".a.png")) == ["imported"]


def test_a_link_to_an_image_is_the_image(outputs: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to(file)
    take(outputs, tmp_path / "in")
    assert lines(outputs)[0]["name"] == "link.png"


# ---- refused whole


def test_strict_refuses_all_for_one(outputs: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no")
    with pytest.raises(Refused, match=r"a.txt: is no PNG, JPEG or WebP.*Leave it out, or import without --strict"):
        take(outputs, file, tmp_path / "a.txt", strict=True)
    assert not outputs.exists()


@pytest.mark.parametrize("source", ["/home/me/a.png", "~/a", "./a", "../a", "file:///a", "C:\\a", "\\\\nas\\a"])
def test_a_source_that_is_a_path_is_refused(outputs: Path, file: Path, source: str) -> None:
    with pytest.raises(Refused, match=r"is a path\. Say who made them or where one can get them"):
        take(outputs, file, about=About(source))
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (About(" "), "--source: is empty"),
        (About("a", license=""), "--license: is empty"),
        (About("a", note="x" * 4_001), "--note: has 4001 characters; the limit is 4000"),
    ],
)
def test_words_that_are_empty_or_endless_are_refused(outputs: Path, file: Path, about: About, said: str) -> None:
    with pytest.raises(Refused, match=said):
        take(outputs, file, about=about)


def test_a_place_that_is_not_there_is_refused_before_anything_is_taken(outputs: Path, file: Path) -> None:
    with pytest.raises(Refused, match=r"nosuch\.png is not there"):
        take(outputs, file, file.with_name("nosuch.png"))
    assert not outputs.exists()


def test_a_run_folder_has_no_store_to_import_into(tmp_path: Path, file: Path) -> None:
    with pytest.raises(Refused, match="is a run, and import needs a store"):
        take(worlds.finished(tmp_path / "o").folder, file)


def test_a_tampered_ledger_takes_nothing(outputs: Path, file: Path) -> None:
    take(outputs, file)
    log = outputs / ledger.FOLDER / journal.JOURNAL
    log.write_bytes(log.read_bytes().replace(b"CC-BY", b"CC-BX"))
    before = worlds.snapshot(outputs)
    with pytest.raises(Corrupt, match="line 1 was altered"):
        take(outputs, file, about=About("someone else"))
    assert worlds.snapshot(outputs) == before


def test_two_imports_at_once_do_not_mix(outputs: Path, file: Path) -> None:
    with ledger.writing(outputs), pytest.raises(Unavailable, match="ledger: is being written by process"):
        take(outputs, file)


# ---- crashes


KILLED = """
import os, signal, sys
from pathlib import Path
from runner import ledger
from runner.verbs.bring import About, bring
def die(self, *events):
    os.kill(os.getpid(), signal.SIGKILL)
ledger.Writer.append = die
bring(Path(sys.argv[1]), [Path(sys.argv[2])], About("a friend"), strict=False, again=False)
"""


def test_a_process_killed_between_bytes_and_line_leaves_an_orphan_and_the_same_command_ends_it(
    outputs: Path, file: Path
) -> None:
    assert fakes.python("-c", KILLED, str(outputs), str(file)).code == -9
    digest = store.digest(file.read_bytes())
    assert (list(worlds.objects_of(outputs)), ledger.read(outputs).imports) == ([digest], {})
    assert statuses(take(outputs, file)) == ["imported"]
    assert list(worlds.objects_of(outputs)) == list(ledger.read(outputs).imports) == [digest]


@pytest.mark.parametrize("torn", [False, True])
def test_a_power_cut_at_any_write_ends_with_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        (tmp_path / "in" / f"{number}.png").write_bytes(picture(number))
    for cut_at in range(1, 7):
        outputs = tmp_path / f"outputs{cut_at}"
        with monkeypatch.context() as patch:
            disk = fakes.Disk(cut_at=cut_at, torn=torn).install(patch)
            try:
                take(outputs, tmp_path / "in")
            except fakes.PowerCut:
                assert set(ledger.read(outputs).imports) <= set(worlds.objects_of(outputs))
        take(outputs, tmp_path / "in")
        assert (sorted(worlds.objects_of(outputs)), len(lines(outputs))) == (sorted(ledger.read(outputs).imports), 2)
    assert disk.num_writes < cut_at, "the last cut came after the last write"
