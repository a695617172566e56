"""The three tasks of the builtin world: paraphrase, acceptability and similarity.

Each is a function from a draw to one labelled row. A few per cent of the labels are noise
(`NOISE`, and a standard deviation of `SPREAD` on similarity), so that no method reaches the
ceiling. The validation split shares no sentence with the training split.
"""

from __future__ import annotations

from collections.abc import Callable

from finegrid.data.builtin import edits
from finegrid.data.builtin.documents import shortened
from finegrid.data.builtin.glitches import GLITCHES, decoyed, plain
from finegrid.data.builtin.grammar import Draw, random_event, say, text

Row = dict[str, str | int | float]
NOISE = 0.03
SPREAD = 0.2
SIZES = {"train": 1400, "validation": 600}


def paraphrase(draw: Draw) -> Row:
    """Like MRPC: two sentences with much overlap; 1 when they mean the same (65 %)."""
    same = draw.chance(0.67)
    event = random_event(draw)
    other = shortened(draw, event, drop=0.1) if same else edits.changed(draw, event)
    label = same != draw.chance(NOISE)
    return {"sentence1": say(draw, event), "sentence2": say(draw, other), "label": int(label)}


def acceptability(draw: Draw) -> Row:
    """Like CoLA: one sentence; 1 when a speaker would accept it (70 %)."""
    good = draw.chance(0.7)
    if good:  # a decoy by itself is no fault
        words = decoyed(draw) if draw.chance(0.05) else plain(draw)
    else:
        words = draw.pick(GLITCHES)(draw)
    return {"sentence": text(words), "label": int(good != draw.chance(NOISE))}


def similarity(draw: Draw) -> Row:
    """Like STS-B: two sentences; 0 (nothing shared) to 5 (the same meaning)."""
    event = random_event(draw)
    other = edits.drifted(draw, event, target=1.25 * draw.unit())
    for edit, share in ((edits.negated, 0.2), (edits.other_tense, 0.2)):
        other = edit(draw, other) if draw.chance(share) else other
    noise = SPREAD * (sum(draw.unit() for _ in range(12)) - 6)
    label = min(5.0, max(0.0, 5 * edits.overlap(event, other) + noise))
    return {"sentence1": say(draw, event), "sentence2": say(draw, other), "label": round(label, 2)}


TASKS: dict[str, Callable[[Draw], Row]] = {
    "builtin_paraphrase": paraphrase,
    "builtin_acceptability": acceptability,
    "builtin_similarity": similarity,
}


def sentences(row: Row) -> list[str]:
    """The sentences of a row."""
    return [str(row[key]) for key in ("sentence", "sentence1", "sentence2") if key in row]


def split(name: str, part: str, taken: set[str]) -> list[Row]:
    """The rows of one split, none with a sentence of `taken`, to which its own are added."""
    draw = Draw(f"finegrid/{name}/{part}")
    rows: list[Row] = []
    while len(rows) < SIZES[part]:
        row = TASKS[name](draw)
        written = sentences(row)
        if taken.isdisjoint(written):
            taken.update(written)
            rows.append({**row, "idx": len(rows)})
    return rows
