"""A query as SQL. Pure: conditions in, statements with their values out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

STATUSES = ("complete", "failed", "planned", "imported")
ADVICE = ("accept", "reject", "unsure")
NONE = "none"  # asks for images without a LoRA
MANY = 20_000  # so many that the newest of them are found sooner by looking through the runs


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """Which images: every condition that is given must hold."""

    run: str | None = None
    experiment: str | None = None
    lora: str | None = None  # `none`: images without one
    base: str | None = None
    prompt: str | None = None  # a part of the prompt's text, in upper or lower case
    seed: int | None = None
    tag: str | None = None
    advice: str | None = None  # what its critic advised
    at_least: tuple[tuple[str, float], ...] = ()  # criterion, score
    at_most: tuple[tuple[str, float], ...] = ()
    status: str | None = None
    sort: str | None = None  # a criterion, lowest first; `-criterion` highest first; else the newest run first
    limit: int | None = 50

    @property
    def sorted_by(self) -> str | None:
        return self.sort.removeprefix("-") if self.sort else None

    @property
    def bounded(self) -> list[str]:
        """The criteria that have a least or most score."""
        return list(dict.fromkeys(name for name, _ in (*self.at_least, *self.at_most)))


Statement = tuple[str, list[Any]]


@dataclass(frozen=True, slots=True)
class _Condition:
    """A piece of SQL with its values, and the table it speaks of."""

    of: str
    text: str
    values: tuple[Any, ...]


# In which order tables are read. CROSS JOIN keeps SQLite to it: each begins where the fewest rows are read, or in the
# order in which they are wanted.
_Frame = tuple[tuple[str, str], ...]
_BY_IMAGE: _Frame = (
    ("i", "images i"),
    ("r", "CROSS JOIN runs r ON r.id = i.run"),
    ("p", "CROSS JOIN prompts p ON p.run = i.run AND p.place = i.prompt"),
)
_BY_SCORE: _Frame = (("s", "scores s"), ("i", "CROSS JOIN images i ON i.id = s.image"), *_BY_IMAGE[1:])
_BY_PROMPT: _Frame = (("p", "prompts p"), ("i", "CROSS JOIN images i ON i.run = p.run AND i.prompt = p.place"))
_BY_RUN: _Frame = (("r", "runs r"), ("p", "CROSS JOIN prompts p ON p.run = r.id"), _BY_PROMPT[1])
_THEN_SCORE = ("s", "CROSS JOIN scores s ON s.image = i.id")
_RUN_OF = {"s": "s.run", "i": "i.run", "p": "p.run", "r": "r.id"}
_NEWEST_FIRST = "r.started DESC, r.run_id, p.place, i.id"
_SHOWN = (
    "i.id, i.digest, r.run_id, i.key, p.text AS prompt, p.prompt_id, i.seed, i.width, i.height, i.status, i.reason,"
    " i.verdict, i.unscored, i.advice, i.quarantined, r.experiment, r.base, r.lora"
)


def counting(query: ImageQuery) -> Statement:
    """How many images there are; reads no table that no condition speaks of."""
    if _few(query):
        frame, criterion = _BY_IMAGE, None
    elif query.prompt is not None:
        frame, criterion = _BY_PROMPT, None
    else:
        criterion = next(iter(query.bounded), None)
        frame = _BY_SCORE if criterion else _BY_IMAGE
    conditions = _conditions(query, frame, criterion)
    needed = {"s" if frame is _BY_SCORE else "i", frame[0][0], *(condition.of for condition in conditions)}
    needed |= {"i"} if "p" in needed else set()  # prompts are reached by their images
    return _statement("count(*)", tuple(part for part in frame if part[0] in needed), conditions)


def listing(query: ImageQuery, total: int) -> Iterator[Statement]:
    """The images themselves, to be read one statement after the other; those without the score come last."""
    criterion = query.sorted_by
    if criterion is None:
        yield _in_time(query, total)
        return
    order = f"s.score {'DESC' if str(query.sort).startswith('-') else 'ASC'}, {_NEWEST_FIRST}"
    narrow = total <= MANY and (_few(query) or query.prompt is not None)
    frame = (*(_BY_IMAGE if _few(query) else _BY_RUN), _THEN_SCORE) if narrow else _BY_SCORE
    yield _statement(_SHOWN, frame, _conditions(query, frame, criterion), order)
    if criterion not in query.bounded:
        yield _in_time(query, total, without=criterion)


def _in_time(query: ImageQuery, total: int, without: str | None = None) -> Statement:
    """The newest run first, in the order of its plan."""
    bounded = next(iter(query.bounded), None)
    by_score = bounded is not None and query.prompt is None and total <= MANY
    frame = _BY_IMAGE if _few(query) else _BY_SCORE if by_score else _BY_RUN
    conditions = _conditions(query, frame, bounded if frame is _BY_SCORE else None)
    if without is not None:
        unscored = "NOT EXISTS (SELECT 1 FROM scores n WHERE n.image = i.id AND n.criterion = ?)"
        conditions.append(_Condition("i", unscored, (without,)))
    return _statement(_SHOWN, frame, conditions, _NEWEST_FIRST)


def _few(query: ImageQuery) -> bool:
    """Whether a condition is for few images, which an index finds at once."""
    return query.seed is not None or query.tag is not None or query.status not in (None, "complete")


def _statement(what: str, frame: _Frame, conditions: list[_Condition], order: str | None = None) -> Statement:
    where = " AND ".join(condition.text for condition in conditions) or "TRUE"
    text = f"SELECT {what} FROM {' '.join(part for _, part in frame)} WHERE {where}"
    return text + (f" ORDER BY {order}" if order else ""), [v for condition in conditions for v in condition.values]


def _conditions(query: ImageQuery, frame: _Frame, criterion: str | None) -> list[_Condition]:
    """Every condition of a query; `criterion` is the one whose scores are in the frame."""
    first = frame[0][0]
    found = [_Condition("s", "s.criterion = ?", (criterion,))] if criterion else []
    found += _of_runs(query, first)
    found += _of_scores(query, first, criterion)
    if query.prompt is not None:
        found.append(_of_text(query.prompt))
    if query.seed is not None:
        found.append(_Condition("i", "i.seed = ?", (query.seed,)))
    if query.tag is not None:
        found.append(_Condition("i", "i.id IN (SELECT image FROM tags WHERE tag = ?)", (query.tag,)))
    if query.advice is not None:
        found.append(_Condition("i", "i.advice = ?", (query.advice,)))
    if query.status is not None:  # said twice, the index of what is not complete can be used
        more = "" if query.status == "complete" else " AND i.status <> 'complete'"
        found.append(_Condition("i", f"i.status = ?{more}", (query.status,)))
    return found


def _of_runs(query: ImageQuery, first: str) -> list[_Condition]:
    asked = {"run_id": query.run, "experiment": query.experiment, "base": query.base, "lora": query.lora}
    named = {column: value for column, value in asked.items() if value is not None}
    parts = [f"{c} = ?" if not _without_lora(c, v) else "lora IS NULL AND base IS NOT NULL" for c, v in named.items()]
    values = tuple(value for column, value in named.items() if not _without_lora(column, value))
    chosen = f"{_RUN_OF[first]} IN (SELECT id FROM runs WHERE {' AND '.join(parts)})"
    return [_Condition(first, chosen, values)] if named else []


def _without_lora(column: str, value: str) -> bool:
    return column == "lora" and value == NONE


def _of_scores(query: ImageQuery, first: str, criterion: str | None) -> Iterator[_Condition]:
    bounds = [(name, ">=", score) for name, score in query.at_least] + [
        (name, "<=", score) for name, score in query.at_most
    ]
    image, of = ("s.image", "s") if first == "s" else ("i.id", "i")
    for name, sign, score in bounds:
        if name == criterion:
            yield _Condition("s", f"s.score {sign} ?", (score,))
        else:
            there = f"EXISTS (SELECT 1 FROM scores o WHERE o.image = {image} AND o.criterion = ? AND o.score {sign} ?)"
            yield _Condition(of, there, (name, score))


def _of_text(part: str) -> _Condition:
    """SQLite's own LIKE knows upper and lower case of ASCII alone; `fold` knows every alphabet and is slower."""
    escaped = part.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    if part.isascii():
        return _Condition("p", r"p.text LIKE ? ESCAPE '\'", (f"%{escaped}%",))
    return _Condition("p", "instr(fold(p.text), ?) > 0", (part.casefold(),))
