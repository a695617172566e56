"""What goes into a paper: tables of tasks by methods, and the BibTeX of what was compared."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import METHODS, MODELS, ROOT, TASKS
from grids import EVIL, broken, grid, run, written

from finegrid.report import paper
from finegrid.report.comparison import Comparison
from finegrid.report.load import rankings, works
from finegrid.runs.record import Record

ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two tasks, two fractions, five methods; `ia3` failed below all data, `lora` lacks a seed."""
    return compared(tmp_path_factory.mktemp("grid"), broken(grid()))


def compared(root: Path, runs: list[Record]) -> Comparison:
    """The comparison of runs written to disk."""
    return Comparison.of(rankings.load([written(root, runs, points=0)]))


def tables(made: Comparison) -> list[paper.PaperTable]:
    """The tables of a comparison."""
    return paper.tables(made.results, made.cells, made.best)


def test_tasks_are_columns_of_one_table_a_fraction(made: Comparison) -> None:
    by_task, full, *of_tasks = tables(made)
    assert [name for name, _ in full.columns] == ["mrpc", "rte"]
    assert full.title == "tiny on mrpc and rte, 100\u00a0% of the data, 3\u00a0epochs"
    assert "30\u00a0% of the data" in by_task.title
    assert [[name for name, _ in table.columns] for table in of_tasks] == [
        ["30\u00a0%", "100\u00a0%"]
    ] * 2
    assert [method for method, *_ in full.rows] == ["full", "head", "bitfit", "ia3", "lora"]
    assert len({table.name for table in tables(made)}) == 4


def test_a_score_is_in_percent_and_marked_as_the_report_marks_it(made: Comparison) -> None:
    full = tables(made)[1]
    best = made.best.set_index(["task", "fraction", "method"])
    cells = made.cells.set_index(["task", "fraction", "method"])
    for method, scores, _ in full.rows:
        for (task, metric), score in zip(full.columns, scores, strict=True):
            cell, place = cells.loc[task, 1.0, method], best.loc[task, 1.0, method]
            assert metric == "f1"
            assert score.text.startswith(f"{100 * cell['mean']:.1f} ± {100 * cell['sd']:.1f}")
            assert score.best == (place["best"] == method)
            assert ("†" in score.text) == (bool(place["tie"]) and not score.best)
            assert score.text.endswith(" (3)") == (method == "lora"), "its number of seeds"
    assert sum(scores[0].best for _, scores, _ in full.rows) == 1
    assert "over 4 seeds" in full.caption


def test_what_failed_is_a_dash_and_costs_are_means_of_the_columns(made: Comparison) -> None:
    rows = {method: (scores, costs) for method, scores, costs in tables(made)[0].rows}
    assert [score.text for score in rows["ia3"][0]] == ["\u2013", "\u2013"]
    assert rows["full"][1][0] == "500k"
    assert rows["full"][1][1] == "2\u00a0MB"


def test_one_task_and_tasks_with_budgets_of_their_own(tmp_path: Path) -> None:
    runs = [replace(one, budget=5.0) if one.task == "rte" else one for one in grid(seeds=2)]
    titles = [table.title for table in tables(compared(tmp_path / "a", runs))]
    assert "tiny on mrpc and rte" in titles[0]
    assert "mrpc 3\u00a0epochs; rte 5\u00a0epochs" in titles[0]
    alone = compared(tmp_path / "b", grid(tasks=["mrpc"], seeds=2))
    (table,) = tables(alone)
    assert [name for name, _ in table.columns] == ["30\u00a0%", "100\u00a0%"]
    unequal = [replace(one, budget=9.0) if one.fraction < 1 else one for one in grid(tasks=["rte"])]
    assert len(tables(compared(tmp_path / "c", unequal))) == 2, "a budget for each fraction"


def assert_balanced(text: str) -> None:
    """LaTeX whose braces and environments close and whose rows have the columns they say."""
    plain = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"[%#<>|\"]", plain)
    opened, closed = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert opened == closed[::-1] == ["table", "tabular"]
    columns = len(re.search(r"{tabular}{(l\w+)}", text)[1])  # type: ignore[index]
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}


def test_latex_is_booktabs_and_escapes_what_others_wrote(tmp_path: Path, made: Comparison) -> None:
    for table in tables(made):
        text = paper.latex(table)
        assert_balanced(text)
        assert text.count("rule\n") == 3
        assert rf"\label{{tab:{table.name}}}" in text
    evil = [run("lora", seed, 0.8, task="a_b", overrides=["method.x=\\input{x}$^~#%<|&"])
            for seed in range(2)]  # fmt: skip
    (table,) = tables(compared(tmp_path, evil))
    text = paper.latex(table)
    assert_balanced(text)
    assert r"a\_b" in text
    assert r"\textbackslash{}input\{x\}\$\textasciicircum{}" in text
    assert re.fullmatch(r"[\w.-]+", table.name)


def test_markdown_escapes_what_others_wrote(tmp_path: Path) -> None:
    runs = [run("lora", seed, 0.8, overrides=[f"method.x={EVIL}"]) for seed in range(2)]
    (table,) = tables(compared(tmp_path, runs))
    text = paper.markdown(table)
    assert "<img" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| lora")]
    assert row.count("|") == 6


@pytest.mark.parametrize(
    "path",
    [
        *(f"method/{name}" for name in METHODS),
        *(f"task/{name}" for name in TASKS if name not in ("custom", "hub")),
        *(f"model/{name}" for name in MODELS),
    ],
)
def test_every_paper_that_a_yaml_names_has_its_entry(path: str) -> None:
    file = ROOT / f"conf/{path}.yaml"
    head = "".join(line for line in file.open(encoding="utf-8") if line.startswith("#"))
    keys = works.cited(file)
    entries = "".join(works.entries()[key] for key in keys)
    assert keys, "an entry for each"
    for arxiv in ARXIV.findall(head):
        assert f"eprint = {{{arxiv}}}" in entries


@pytest.mark.parametrize("key", works.entries())
def test_an_entry_is_well_formed_and_cited_somewhere(key: str) -> None:
    entry = works.entries()[key]
    kind, fields = (
        entry[1 : entry.index("{")],
        dict(re.findall(r"^  (\w+) = {(.*)},$", entry, re.M)),
    )
    assert kind in ("software", "inproceedings", "article")
    assert entry.count("{") == entry.count("}")
    assert len(fields) == entry.count("\n") - 2
    assert {"title", "author"} <= fields.keys()
    place = {"software": "license", "inproceedings": "booktitle", "article": "journal"}[kind]
    assert place in fields
    assert ("year" in fields) == (kind != "software")
    files = [file for group in ("method", "task", "model", "loss") for file in
             (ROOT / "conf" / group).glob("*.yaml")]  # fmt: skip
    assert any(key in works.cited(file) for file in files)


def test_finegrid_is_cited_as_its_citation_file_says() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    entry = works.entries()[works.FINEGRID]
    assert f"title = {{{said['title']}}}" in entry
    assert f"author = {{{{{said['authors'][0]['name']}}}}}" in entry
    assert f"license = {{{said['license']}}}" in entry


def test_the_bibliography_has_what_was_compared_and_says_what_it_lacks(made: Comparison) -> None:
    text = works.bibtex(made.results)
    keys = re.findall(r"^@\w+{(\w+),", text, re.M)
    assert keys[0] == "finegrid"
    assert "version = {0.4.0}" in text
    assert {"hu2022lora", "benzaken2022bitfit", "dolan2005mrpc", "wang2018glue"} < {*keys}
    assert "lester2021prompt" not in keys
    assert len(keys) == len({*keys})
    ours = replace(made.results, runs=made.results.runs.assign(task="../secret", method="mine x=1"))
    assert works.bibtex(ours).endswith("% No entry is known for: method mine, task ../secret.\n")
