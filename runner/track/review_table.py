"""The table of verdicts that MLflow's UI shows: a row for every image, with its picture where one is logged.

Pictures are the thumbnails that are logged anyway. MLflow takes a column for pictures by its first row alone and fails
on a row without one, so a row without a thumbnail gets a blank; and a column with a dot in its name reads empty there.
What a critic found is read from the store for the first rows; a later row says where it stands. It refuses nothing:
what is not there leaves its cell empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner import journal
from runner.report import verdicts
from runner.store import Objects

MAX_RECORDS = 1_000  # verdicts that are read from the store
BLANK = "table_images/blank.png"  # where MLflow itself keeps the pictures of a table
ABOUT = ("key", "prompt", "seed")
ENDING = ("tags", "evidence", "unscored", "quarantined", "status", "digest", "verdict")
Row = dict[str, Any]


def pictures_of(run: journal.Run, most: int) -> dict[str, str]:
    """Digests by the key under which they are logged; the second image of a pair is its key's `.against`."""
    given = run.manifest.get("given", {})
    rows = [row for row in run.images() if row["digest"]][:most]
    pairs = {f"{row['key']}.against": given[row["key"]][1] for row in rows if len(given.get(row["key"], ())) > 1}
    return {row["key"]: row["digest"] for row in rows} | pairs


def review_table(
    run: journal.Run, objects: Objects | None, shown: Mapping[str, str], max_records: int = MAX_RECORDS
) -> dict[str, Any]:
    """Columns and rows; `shown` are the files of the thumbnails by key, without their endings."""
    is_pair = (run.manifest["request"].get("critic") or {}).get("mode") == "pairwise"
    rows = [_row(row, objects if number < max_records else None, shown) for number, row in enumerate(run.images())]
    for row in rows[max_records:]:
        row["evidence"] = f"python -m runner inspect {row['verdict']}" if row["verdict"] else ""
    scored = dict.fromkeys([*verdicts.criteria_of(run.manifest), *verdicts.score_lists(map(_scores, rows))])
    columns = [*_pictures(shown, is_pair), *ABOUT, "winner" if is_pair else "advice"]
    columns += [*(f"score/{name}" for name in scored), *ENDING]
    return {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}


def has_pictures(table: Mapping[str, Any]) -> bool:
    """Whether the blank is to be logged: beside every column of pictures, so that a resume leaves nothing over."""
    return "image" in table["columns"]


def _pictures(shown: Mapping[str, str], is_pair: bool) -> list[str]:
    """No column of pictures where none is logged."""
    return ["image", "against"][: 1 + is_pair] if shown else []


def _row(row: Row, objects: Objects | None, shown: Mapping[str, str]) -> Row:
    said = verdicts.record(row["verdict"], objects)
    return {
        **row,
        "image": _cell(shown.get(row["key"])),
        "against": _cell(shown.get(f"{row['key']}.against")),
        "winner": said.get("winner") or "",
        "advice": row["advice"] or "",
        **{f"score/{name}": score for name, score in row["scores"].items()},
        "tags": ", ".join(row["tags"]),
        "evidence": "; ".join(map(verdicts.in_words, verdicts.findings_of(said))),
        "unscored": row["unscored"] or "",
        "quarantined": "quarantined" if row["quarantined"] else "",
    }


def _scores(row: Row) -> Row:
    return {"scores": row["scores"]}


def _cell(file: str | None) -> dict[str, str]:
    """A picture in MLflow's form: a large one and a small one."""
    files = (f"{file}.png", f"{file}+compressed.webp") if file else (BLANK, BLANK)
    return {"type": "image", "filepath": files[0], "compressed_filepath": files[1]}
