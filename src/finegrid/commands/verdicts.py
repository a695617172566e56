"""Test papers' claims on the runs of a sweep, and write the page.

    finegrid verdicts paper1 multirun/paper1 --out docs/results/paper1.md

paper1 is arXiv 2401.04051 (BitFit, adapters, full fine-tuning), paper2 is arXiv 2004.14129 (how far
fine-tuning moves the weights, critical layers, masks), for which `finegrid analyse` measures the
weights: give its folder to --distances and its overlap.csv to --overlap. lora is arXiv 2602.04998
and 2601.22708: with searched rates (tune.trials=4) no variant of LoRA beats LoRA. models asks which
of some models scores more with each method, labels which method needs how many labelled rows.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from finegrid.commands import arguments
from finegrid.errors import UserError
from finegrid.report.load import rankings
from finegrid.report.stats.scores import Evidence, evidence
from finegrid.runs import layout
from finegrid.storage.files import write_atomic
from finegrid.studies import doering2024, labels, lora2026, models, page, radiya_dixit2020
from finegrid.studies.study import Given

STUDIES = {
    "paper1": doering2024.STUDY,
    "paper2": radiya_dixit2020.STUDY,
    "lora": lora2026.STUDY,
    "models": models.STUDY,
    "labels": labels.STUDY,
}
DISTANCES = ("cell", "task", "layer", "l2", "l2_random")
PAIR = ("cell_a", "cell_b", "task_a", "relation")
OVERLAP = (*PAIR, "layer", "numel", "changed_a", "changed_b", "both", "either")


def main(argv: Sequence[str] | None = None) -> None:
    """Read results and measurements, judge the claims, write the page."""
    given = _arguments(argv)
    if not 0 < given.margin < 1:
        raise UserError(f"--margin {given.margin:g} must lie between 0 and 1, as scores do")
    study = STUDIES[given.study]
    results = rankings.results(given.results, mix={*given.mix, *study.mix})
    known = evidence(results, seeds_alone=given.seeds_alone)
    results = replace(results, notes=(*results.notes, *known.notes))
    verdicts = study.verdicts(_given(given, results, known))
    if not any(verdicts.values()):
        raise UserError(f"nothing for {given.study} to judge: {study.needs}")
    text = page.page(
        study.title,
        results,
        verdicts,
        rule=study.rule(given.margin),
        command=arguments.command("verdicts", argv),
        preface=given.preface.read_text(encoding="utf-8") if given.preface else "",
        figures=[os.path.relpath(figure, given.out.parent) for figure in given.figures],
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(given.out, text.encode())
    print(f"wrote {given.out}")


def _file(name: str) -> Path:
    if not (path := Path(name)).is_file():
        raise UserError(f"no such file: {name}")
    return path


def _given(given: argparse.Namespace, results: rankings.Results, known: Evidence) -> Given:
    """The results, and what `finegrid analyse` measured of them."""
    distances = _rows(given.distances, layout.DISTANCES, DISTANCES)
    overlap = _rows(given.overlap, "overlap.csv", OVERLAP)
    return Given(results, known, given.margin, distances, overlap)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser("verdicts", __doc__)
    parser.add_argument("study", choices=tuple(STUDIES))
    parser.add_argument(
        "results", type=Path, nargs="+", help="sweep directories, or the runs.parquet of reports"
    )
    parser.add_argument("--distances", type=Path, nargs="+", default=[], help="CSV or directories")
    parser.add_argument("--overlap", type=Path, nargs="+", default=[], help="CSV or directories")
    arguments.add_mixing(parser, rankings.UNASKED)
    parser.add_argument("--preface", type=_file, help="Markdown of your own for the page's top")
    parser.add_argument("--figures", type=Path, nargs="+", default=[], help="to link on the page")
    parser.add_argument(
        "--margin", type=float, default=0.01, help="within which scores count as equal (0.01)"
    )
    parser.add_argument(
        "--seeds-alone",
        action="store_true",
        help="leave the chance in test rows aside: verdicts then speak of these test sets alone",
    )
    parser.add_argument("--out", type=Path, required=True, help="the page, such as paper1.md")
    return parser.parse_args(argv)


def _rows(places: Sequence[Path], name: str, columns: Sequence[str]) -> pd.DataFrame | None:
    """The rows of CSV files, or of those of that name below directories; none if none is given."""
    if not places:
        return None
    files = [file for place in places for file in _files(place, name)]
    frames = [_read(file, columns) for file in files]
    return pd.concat(frames, ignore_index=True).drop_duplicates()


def _files(place: Path, name: str) -> list[Path]:
    files = sorted(place.rglob(name)) if place.is_dir() else [place]
    if not files:
        raise UserError(f"no {name} below {place}; finegrid analyse --out writes it")
    return files


def _read(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        rows = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not a readable CSV file: {error}") from error
    if lacks := [column for column in columns if column not in rows]:
        raise UserError(f"{file} lacks {', '.join(lacks)}; give a file of finegrid analyse")
    return rows
