"""Figures: what is drawn is what was measured, can be read by all, and comes out the same twice."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from grids import EVIL, METHODS, broken, grid, written

from finegrid.report.figures import curves, diagrams, draw, keys, style
from finegrid.report.figures.draw import Figure
from finegrid.report.load import rankings
from finegrid.report.load.races import Raced
from finegrid.report.load.rankings import Results
from finegrid.report.stats import compare

SVG = "{http://www.w3.org/2000/svg}"
RawSplits = tuple[Results, pd.DataFrame, pd.DataFrame]


def tables(root: Path) -> RawSplits:
    """What a report draws from."""
    results = rankings.results([root])
    return results, compare.cells(results), compare.against_best(results)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RawSplits:
    """Two tasks, two fractions, five methods, one of which partly failed."""
    return tables(written(tmp_path_factory.mktemp("grid"), broken(grid())))


@pytest.fixture(scope="module")
def drawn(made: RawSplits) -> dict[str, Figure]:
    """Its figures by name."""
    return {figure.name: figure for figure in draw.draw(*made)[0]}


def texts(figure: Figure) -> list[str]:
    """All texts of a figure."""
    return ["".join(node.itertext()) for node in ET.fromstring(figure.svg).iter(f"{SVG}text")]


def test_every_kind_is_drawn_for_every_task(drawn: dict[str, Figure]) -> None:
    kinds = ("fraction", "seconds", "bytes", "parameters", "curves")
    each = {f"{task}-epochs3-{kind}-s0" for task in ("mrpc", "rte") for kind in kinds}
    assert set(drawn) == each | {"ranks-s0"}
    assert all(figure.title and figure.caption and len(figure.data) for figure in drawn.values())


def test_a_figure_can_be_put_into_a_page_with_others(drawn: dict[str, Figure]) -> None:
    seen: set[str] = set()
    for figure in drawn.values():
        root = ET.fromstring(figure.svg)
        assert root.tag == f"{SVG}svg"
        assert [node.text for node in root.iter(f"{SVG}title")] == [figure.title]
        ids = [node.get("id", "") for node in root.iter() if node.get("id")]
        assert len(ids) == len(set(ids))
        assert not seen & set(ids)
        seen |= set(ids)
        referred = re.findall(r'(?:href="|url\()#([^")]+)', figure.svg)
        assert set(referred) <= set(ids)
        assert "<image" not in figure.svg
        assert not re.search(r'(href="|url\()(?!#)', figure.svg), "it asks for nothing"


def test_text_is_text_and_names_every_method(drawn: dict[str, Figure]) -> None:
    assert {"test f1", "share of the training rows"} <= set(
        texts(drawn["mrpc-epochs3-fraction-s0"])
    )
    for name, figure in drawn.items():
        missing = set(figure.data.method) - set(texts(figure))
        assert not missing, name


def test_the_same_twice(made: RawSplits, drawn: dict[str, Figure]) -> None:
    again, _ = draw.draw(*made)
    assert [figure.svg for figure in again] == [figure.svg for figure in drawn.values()]
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert again[1].saved(kind, dpi=60) == again[1].saved(kind, dpi=60)
        assert again[1].saved(kind, dpi=60).startswith(start)


def test_a_figures_data_are_the_cells(made: RawSplits, drawn: dict[str, Figure]) -> None:
    _, cells, best = made
    data = drawn["mrpc-epochs3-seconds-s0"].data.set_index("method")
    cells = cells[(cells.task == "mrpc") & (cells.fraction == 1)].set_index("method")
    best = best[(best.task == "mrpc") & (best.fraction == 1)].set_index("method")
    assert set(data.index) == set(METHODS)
    for method in METHODS:
        for column in ("mean", "low", "high", "ok", "train_seconds"):
            assert data[column][method] == pytest.approx(cells[column][method])
        assert data.tie[method] == best.tie[method]
    assert data.missing["lora"] == 1
    assert "ia3" not in set(drawn["mrpc-epochs3-fraction-s0"].data.query("fraction < 1").method)


def test_points_of_the_svg_are_where_the_numbers_are(drawn: dict[str, Figure]) -> None:
    """Heights in the drawing are linear in the score."""
    figure = drawn["mrpc-epochs3-bytes-s0"]
    point = r'<use xlink:href="#[^"]+" x="([\d.]+)" y="([\d.]+)" style="[^"]*stroke-width: 1.1'
    uses = re.findall(point, figure.svg)
    heights = sorted(float(y) for _, y in uses)
    scores = sorted(figure.data["mean"], reverse=True)
    assert len(heights) == len(scores)
    slope, offset = np.polyfit(scores, heights, 1)
    assert slope < 0
    assert heights == pytest.approx([slope * score + offset for score in scores], abs=0.05)


def test_every_method_has_a_look_of_its_own_in_all_figures(drawn: dict[str, Figure]) -> None:
    many = [f"m{number:02d}" for number in range(80)]
    assert len(set(style.marks(["full", "head", *many]).values())) == 82
    looks = style.marks(rankings.ordered(METHODS))
    for figure in drawn.values():
        for method in set(figure.data.method):
            assert looks[method].colour in figure.svg, (figure.name, method)
    assert style.marks(["bitfit"])["bitfit"] == looks["bitfit"]


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def dark(colour: str) -> str:
    """What the page's dark filter, `invert(.92) hue-rotate(180deg)`, makes of a colour."""
    light = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    grey = np.array([0.213, 0.715, 0.072])  # of the filter's specification
    turned = 2 * grey @ (0.92 - 0.84 * light) - (0.92 - 0.84 * light)
    return "#" + "".join(f"{round(255 * value):02x}" for value in turned.clip(0, 1))


def test_colours_stand_out_on_a_light_and_a_dark_page() -> None:
    for colour in style.COLOURS:
        assert contrast(colour, style.PAPER) >= 3
        assert contrast(dark(colour), "#14171a") >= 3
    for colour in (style.INK, style.SOFT):
        assert contrast(colour, style.PAPER) >= 4.5
        assert contrast(dark(colour), "#14171a") >= 4.5


@pytest.mark.parametrize(
    ("ranks", "gap", "expected"),
    [([1, 2, 3, 4], 1.5, [(0, 1), (1, 2), (2, 3)]), ([1, 1.2, 4], 1, [(0, 1)]), ([1, 3], 1, []),
     ([1, 2, 3], 9, [(0, 2)])],
)  # fmt: skip
def test_bars_cover_the_methods_not_told_apart(
    ranks: list[float], gap: float, expected: list[tuple[int, int]]
) -> None:
    assert diagrams.groups(ranks, gap) == expected


def test_beyond_the_limit_figures_are_named_not_drawn(made: RawSplits) -> None:
    figures, note = draw.draw(*made, limit=3)
    assert [figure.name for figure in figures] == [
        "ranks-s0", "mrpc-epochs3-fraction-s0", "rte-epochs3-fraction-s0",
    ]  # fmt: skip
    assert "8 figures of 11 were not drawn" in note
    assert "2 of learning curves" in note
    assert keys.planned(made[0], made[1])[1] == ""


def test_published_scores_are_lines_without_a_rank(made: RawSplits) -> None:
    results, cells, best = made
    row = {"task": "mrpc", "metric": "f1", "backbone": "tiny", "split": "holdout", "n": None,
           "initialisation": "pretrained", "method": "lora", "score": 0.77}  # fmt: skip
    given = pd.DataFrame([row | {"label": "lora (a)"}, row | {"label": "b", "split": "dev"}])
    given["n"] = given["n"].astype("Int64")
    figures = {f.name: f for f in draw.draw(results, cells, best, references=given)[0]}
    with_lines = figures["mrpc-epochs3-bytes-s0"]
    assert "lora (a) 0.770" in texts(with_lines)
    assert "b 0.770" not in texts(with_lines)
    assert set(with_lines.data.method) == set(METHODS)
    assert "lora (a)" not in figures["rte-epochs3-bytes-s0"].svg


def test_learning_curves_are_means_over_seeds(drawn: dict[str, Figure], made: RawSplits) -> None:
    data = drawn["mrpc-epochs3-curves-s0"].data
    runs = made[0].runs.query("task == 'mrpc' and fraction == 1 and method == 'full'")
    own = data[data.method == "full"].reset_index()
    assert list(own.step) == [10, 20, 30, 40, 50]
    assert own["mean"][4] == pytest.approx(fmean(runs.test) - 0.02, abs=1e-5)
    assert own.low[4] == pytest.approx(min(runs.test) - 0.02, abs=1e-5)
    assert set(own.seeds) == {4}


def test_reading_curves_is_bounded(made: RawSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagrams, "FILES", 10)
    read: list[str] = []
    real = curves.read
    monkeypatch.setattr(curves, "read", lambda place: (read.append(str(place)), real(place))[1])
    figure = next(f for f in draw.draw(*made)[0] if f.name == "mrpc-epochs3-curves-s0")
    assert len(read) == 20, "two tasks of five methods, two seeds each"
    assert "Read: the first 10 of 19 runs" in figure.caption


def test_a_curve_that_breaks_off_is_no_error(tmp_path: Path) -> None:
    assert curves.read(tmp_path) is None
    assert curves.read("") is None
    for content in ("", "step,seconds,loss,validation\n", "step,seconds\n1,2\n", "\x00\n1,2,3,4\n"):
        (tmp_path / "curve.csv").write_text(content, encoding="utf-8")
        assert curves.read(tmp_path) is None


def test_several_budgets_have_a_figure_over_them(tmp_path: Path) -> None:
    from dataclasses import replace

    short, long = grid(tasks=["mrpc"], seeds=3), grid(tasks=["mrpc"], seeds=3)
    both = [*(replace(run, budget=1.0) for run in short), *long]
    figures = {f.name: f for f in draw.draw(*tables(written(tmp_path, both, points=0)))[0]}
    data = figures["mrpc-epochs-budget-s0"].data
    assert {*data.budget} == {1.0, 3.0}
    assert "budget in epochs" in texts(figures["mrpc-epochs-budget-s0"])
    assert "mrpc-epochs1-curves-s0" not in figures


def test_rows_asked_for_by_number_are_the_axis(tmp_path: Path) -> None:
    from dataclasses import replace

    asked = [replace(run, rows_asked=run.train_rows) for run in grid(tasks=["mrpc"], seeds=3)]
    figures = {f.name: f for f in draw.draw(*tables(written(tmp_path, asked, points=0)))[0]}
    over = figures["mrpc-epochs3-fraction-s0"]
    assert {*over.data.rows_asked} == {300.0, 1000.0}
    assert "training rows" in texts(over)
    assert "1,000\xa0rows of the data" in figures["mrpc-epochs3-bytes-s0"].title


def test_distances_that_an_analysis_left_are_drawn(tmp_path: Path) -> None:
    root = written(tmp_path, grid(tasks=["mrpc"], fractions=[1.0], seeds=2), points=0)
    for number, directory in enumerate(sorted(root.iterdir())):
        rows = [
            {"layer": layer, "kind": kind, "l2": (layer + 1) * (number > 1) * size / 10,
             "l2_random": size}
            for layer, (kind, size) in product((0, 1, 2), (("query", 1.0), ("output", 3.0)))
        ]  # fmt: skip
        pd.DataFrame(rows).to_csv(directory / "distances.csv", index=False)
    (figure,) = [f for f in draw.draw(*tables(root))[0] if "distances" in f.name]
    own = figure.data[figure.data.method == "lora"]
    assert list(own.ratio) == pytest.approx([0.1, 0.2, 0.3])
    assert {"lora", "bitfit", "0", "1", "2"} <= set(texts(figure))


def with_distances(root: Path) -> Path:
    """Distances as an analysis leaves them beside each run."""
    rows = [{"layer": layer, "kind": "query", "l2": 0.1, "l2_random": 1.0} for layer in (0, 1)]
    for record in root.glob("*/record.json"):
        pd.DataFrame(rows).to_csv(record.with_name("distances.csv"), index=False)
    return root


@pytest.mark.parametrize(
    ("at", "kinds"),
    [
        (1.0, {"ranks", "fraction", "seconds", "bytes", "parameters", "curves", "distances"}),
        (0.3, {"ranks", "fraction"}),
        (None, set()),
    ],
)
def test_a_method_that_a_race_stopped_is_marked_wherever_its_mean_is(
    tmp_path: Path, at: float | None, kinds: set[str]
) -> None:
    """Of eight seeds declared, lora had two at one fraction; the figures of the other are clean."""
    given = [one for one in grid() if one.method != "lora" or one.fraction != at or one.seed < 2]
    results = rankings.results([with_distances(written(tmp_path, given))])
    every = results.runs[rankings.RANKING].drop_duplicates().itertuples(index=False, name=None)
    raced = {key: Raced(0.01, 8, 4, {"lora": 2} if key[-1] == at else {}) for key in every}
    results = replace(results, races=raced)
    figures, _ = draw.draw(results, compare.cells(results), compare.against_best(results))
    marked = {figure.name for figure in figures if "lora\u2021" in texts(figure)}
    assert {name.split("-")[-2] for name in marked} == kinds
    for figure in figures:
        assert figure.caption.count("\u2021: stopped early by a race") == (figure.name in marked)
        assert not any("\u2021" in text for text in texts(figure)) or figure.name in marked
        assert not any(text.startswith("full\u2021") for text in texts(figure))


def test_a_method_alone_is_marked_in_its_distances(tmp_path: Path) -> None:
    """Its rows are kinds of matrices, so the caption names it."""
    given = grid({"lora": 0.8}, tasks=["mrpc"], fractions=[1.0], seeds=2)
    results = rankings.results([with_distances(written(tmp_path, given))])
    (key,) = results.runs[rankings.RANKING].drop_duplicates().itertuples(index=False, name=None)
    results = replace(results, races={key: Raced(0.01, 8, 2, {"lora": 2})})
    figures, _ = draw.draw(results, compare.cells(results), compare.against_best(results))
    (figure,) = [figure for figure in figures if "distances" in figure.name]
    assert "change by lora\u2021 over" in figure.caption
    assert "\u2021: stopped early by a race" in figure.caption


def test_a_strange_name_stays_a_name(tmp_path: Path) -> None:
    """No record may have it; an override's value may put it into a method's name."""
    made = grid({"full": 0.8, "lora": 0.7}, tasks=["mrpc"], fractions=[1.0], seeds=2)
    plain = rankings.results([written(tmp_path, made)])
    runs = plain.runs.replace({"method": {"lora": EVIL}, "task": {"mrpc": EVIL}})
    results = rankings.Results(runs, plain.settings)
    figures, _ = draw.draw(results, compare.cells(results), compare.against_best(results))
    assert figures
    for figure in figures:
        assert re.fullmatch(r"[\w.-]+", figure.name)
        assert any(name.startswith(EVIL) for name in figure.data.method)
        assert any(text.startswith(EVIL[:20]) for text in texts(figure))
        assert "<img" not in figure.svg


def test_one_method_or_one_seed_is_no_error(tmp_path: Path) -> None:
    alone = written(tmp_path / "one", grid({"full": 0.8}, tasks=["mrpc"], fractions=[1.0], seeds=1))
    assert [figure.name for figure in draw.draw(*tables(alone))[0]] == ["mrpc-epochs3-curves-s0"]
    few = written(tmp_path / "few", grid(tasks=["mrpc"], seeds=1))
    assert len(draw.draw(*tables(few))[0]) == 6


def test_drawing_needs_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys, finegrid.report.figures.draw;"
        "print({'torch', 'matplotlib.pyplot', 'transformers'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
