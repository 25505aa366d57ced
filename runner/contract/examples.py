"""Which past decisions a critic is shown: chosen when a request is accepted, pinned in its manifest.

By the profile's retrieval policy: `recent` the last ones; `balanced` as many approved as rejected, the last of each.
Only images of its split, whose bytes are there, that are not deleted and whose prompt is known; where reviewers differ
about an image, it is no example. The same decisions give the same examples in the same order, the oldest first. Fewer
than asked for are fewer: nothing is made up. What it does not know: which image they will be shown beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from runner import journal, ledger, store
from runner.config.critic import Retrieval
from runner.errors import Corrupt
from runner.ledger.decided import WORDS, Decision, decided, split_of

BALANCED = ("approve", "reject")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A decision that the critic is shown, with the prompt that its image was made from."""

    image: str
    prompt: str
    decision: str
    note: str


def examples(outputs: Path, retrieval: Retrieval) -> tuple[Chosen, ...]:
    """The examples of a policy, oldest decision first. Raises Corrupt when decisions or ledger cannot be read."""
    if retrieval.source == "none" or retrieval.num_examples == 0:
        return ()
    agreed = _agreed(outputs, retrieval.split)
    if not agreed:
        return ()
    find = Finder(outputs, ledger.read(outputs), store.open_store(outputs, None))
    ledger.refuse_broken(outputs, find.known)
    if retrieval.select == "recent":
        chosen = list(islice(find.usable(agreed), retrieval.num_examples))
    else:
        wanted = retrieval.num_examples // 2
        sides = [list(islice(find.usable(d for d in agreed if d.word == word), wanted)) for word in BALANCED]
        chosen = [row for side in sides for row in side[: min(map(len, sides))]]
    place = {decision.image: at for at, decision in enumerate(agreed)}
    return tuple(sorted(chosen, key=lambda row: -place[row.image]))


def chosen_for(outputs: Path, run: str) -> tuple[Chosen, ...]:
    """The examples that a run was begun with; decisions that came since are for the next one."""
    try:
        manifest = journal.read_manifest(outputs / "runs" / run)
    except Corrupt:
        return ()  # whoever looks for the run says what is wrong with it
    return tuple(Chosen(*row) for row in manifest["pins"].get("examples", ()))


def _agreed(outputs: Path, split: str) -> list[Decision]:
    """The last decision on each image of a split about which no two reviewers differ, the newest first."""
    by_image = decided(outputs).by_image()
    agreed = [said[-1] for said in by_image.values() if len({decision.word for decision in said}) == 1]
    return [each for each in reversed(agreed) if each.word in WORDS and split_of(each.image) == split]


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds the bytes and the prompt of a decided image."""

    outputs: Path
    known: ledger.Ledger
    objects: store.Objects

    def usable(self, decisions: Iterable[Decision]) -> Iterator[Chosen]:
        """Those that can be shown; looks no further than it is read."""
        for decision in decisions:
            there = store.is_name(decision.image) and self.objects.holds(decision.image)
            prompt = self._prompt(decision.image) if there else None
            if prompt is not None:
                yield Chosen(decision.image, prompt, decision.word, decision.note)

    def _prompt(self, digest: str) -> str | None:
        """What the image was made from, as the first run says that made it and does not count it as deleted."""
        from runner import index  # SQLite; most requests show no examples

        for run_id, key in index.where_is(self.outputs, digest):
            if not self.known.deletes(digest, f"runs/{run_id}"):
                with suppress(Corrupt, StopIteration):
                    return _prompt_of(journal.read_manifest(self.outputs / "runs" / run_id), key)
        if self.known.deletes(digest, ledger.RECORD):
            return None
        return self.known.imports.get(digest, {}).get("prompt")


def _prompt_of(manifest: dict[str, object], key: str) -> str:
    images, prompts = manifest["images"], manifest["prompts"]
    assert isinstance(images, list) and isinstance(prompts, list)
    return str(next(prompts[place]["text"] for image, place, _ in images if image == key))
