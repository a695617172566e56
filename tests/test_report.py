"""Records to rankings: what is compared with what, what is refused, and the script around it."""

import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import call, errors
from conftest import ROOT

from finegrid.errors import UserError
from finegrid.report import formatting, paper, tables
from finegrid.report.answer import answer
from finegrid.report.comparison import Comparison
from finegrid.report.html import page as html_page
from finegrid.report.load import rankings
from finegrid.report.load.rankings import Results, gather, load
from finegrid.report.stats import compare
from finegrid.runs.record import Record

HASHES = {"train_hash": "t", "validation_hash": "v", "test_hash": "e", "fingerprint": "f"}


def record(method: str, seed: int, test: float | None, **changes: object) -> Record:
    """A finished record, or a failed one where there is no score."""
    values: dict[str, object] = {
        "method": method, "task": "mrpc", "model": "tiny", "fraction": 0.3, "budget_unit": "epochs",
        "budget": 3.0, "seed": seed, "protocol": "holdout", "overrides": [], "test": test,
        "status": "failed" if test is None else "ok", "metric": "f1", "train_seconds": 2.0,
        "params_delta": 10, "params_head": 2, "params_pooler": 0, "delta_bytes": 48,
        "started": f"2026-01-0{seed + 1}",
    }  # fmt: skip
    return Record(**(values | changes))  # type: ignore[arg-type]


def results(*runs: Record, mix: tuple[str, ...] = ()) -> Results:
    """Rankings of records that were never written."""
    rows = [
        asdict(run) | {"overrides": " ".join(run.overrides), "directory": "",
                       "version": run.versions.get("finegrid")}
        for run in runs
    ]  # fmt: skip
    return gather(pd.DataFrame(rows).drop(columns=["metrics", "versions"]), mix=mix)


def saved(directory: Path, *runs: Record) -> Path:
    """Write records, each into a directory of its own."""
    for number, run in enumerate(runs):
        own = (
            directory
            / f"{run.task}/{run.model}/{run.method}/f{run.fraction:g}-s{run.seed}-{number}"
        )
        own.mkdir(parents=True)
        run.write(own)
    return directory


def shown(found: Results) -> str:
    """As the terminal shows them."""
    return tables.markdown(found, compare.cells(found), compare.against_best(found))


def cell(found: Results, method: str, fraction: float = 0.3) -> Any:
    """One row of the cells."""
    cells = compare.cells(found)
    (row,) = (
        row for _, row in cells.iterrows() if (row.method, row.fraction) == (method, fraction)
    )
    return row


def test_a_row_holds_all_that_a_record_says(tmp_path: Path) -> None:
    run = record("lora", 1, 0.8, overrides=["a=1", "b=2"], versions={"finegrid": "0.4.0"},
                 metrics={"test": {"f1": 0.8}, "validation": {"f1": 0.7}}, degenerate=False,
                 peak_memory_bytes=10**9, git_commit="abc")  # fmt: skip
    runs = load([saved(tmp_path, run)])
    (row,) = runs.to_dict("records")
    assert (row["overrides"], row["version"], row["test/f1"]) == ("a=1 b=2", "0.4.0", 0.8)
    assert (row["validation/f1"], row["peak_memory_bytes"]) == (0.7, 1e9)
    assert row["directory"].endswith("mrpc/tiny/lora/f0.3-s1-0")
    nested = {"overrides", "metrics", "truncated", "versions", "chosen", "chosen_by"}
    assert {name for name in asdict(run) if name not in nested} <= set(runs)


@pytest.mark.parametrize(("rise", "shown"), [(None, False), (0.25, True)])
def test_forgetting_is_a_column_where_a_run_has_measured_it(
    tmp_path: Path, rise: float | None, shown: bool
) -> None:
    runs = record("full", 0, 0.8, forgetting=rise), record("lora", 0, 0.7)
    made = Comparison.of(load([saved(tmp_path, *runs)]))
    (table,) = made.paper
    page = html_page.page(made)
    texts = [
        tables.markdown(made.results, made.cells, made.best),
        paper.markdown(table),
        paper.latex(table),
        page[page.index('<table id="cells">') : page.index('<section id="runs"')],
    ]
    for text in texts:
        assert ("orgetting" in text) == ("+0.250" in text) == shown


def test_mean_spread_and_failures() -> None:
    runs = [record("bitfit", 0, 0.8), record("bitfit", 1, 0.9),
            record("bitfit", 2, None, error="no luck"), record("full", 0, 0.85)]  # fmt: skip
    text = shown(results(*runs))
    assert "0.8500 ± 0.0707 (2, 1 failed)" in text
    assert "0.8500 ± ? (1, 2 missing)" in text
    assert text.index("| full") < text.index("| bitfit"), "baselines come first"
    assert "1 run failed: bitfit on mrpc at 30 % (1: no luck)." in text
    assert "2 runs missing: full on mrpc at 30 % (seed 1, 2)." in text


def test_diverged_constant_and_wholly_missing_cells_show() -> None:
    found = results(
        record("full", 0, 0.9), record("full", 0, 0.95, fraction=1.0),
        record("lora", 0, None, status="diverged", error="the loss became nan"),
        record("ia3", 0, 0.1, degenerate=True), record("ia3", 0, 0.1, fraction=1.0),
    )  # fmt: skip
    text = shown(found)
    assert "none (0, 1 diverged)" in text
    assert "0.1000 ± ? (1, 1 constant)" in text
    gone = cell(found, "lora", 1.0)
    assert (gone.ok, gone.failed, gone.missing, gone.metric) == (0, 0, 1, "f1")
    assert "none (0, 1 missing)" in text
    assert cell(found, "ia3").degenerate == 1.0


def test_an_unreadable_record_shows_where_its_place_tells_what_it_was(tmp_path: Path) -> None:
    saved(tmp_path, record("full", 0, 0.9), record("full", 1, 0.8), record("lora", 0, 0.7))
    broken = [tmp_path / "mrpc/tiny/lora/f0.3-s1-x", tmp_path / "elsewhere"]
    for directory, content in zip(broken, ['{"schema": 1, "meth', '{"schema": 9}'], strict=True):
        directory.mkdir()
        (directory / "record.json").write_text(content, encoding="utf-8")
    found = gather(load([tmp_path]))
    assert "(1, 1 unreadable)" in shown(found)
    (lost,) = [note for note in found.notes if "in no table" in note]
    assert "elsewhere (schema 9, this version reads 1)" in lost
    assert list(found.runs["status"]).count("unreadable") == 1


APART = {
    "protocol": {"protocol": "dev"}, "version": {"versions": {"finegrid": "0.1"}},
    "precision": {"precision": "32"}, "pretrained": {"pretrained": False},
    "fingerprint": {"fingerprint": "other"}, "frozen_dropout": {"frozen_dropout": False},
    "kernels": {"kernels": False}, "head": {"head": "pattern"},
    "select": {"select": "last"}, "model": {"model": "minilm"}, "budget": {"budget": 5.0},
    "unit": {"budget_unit": "steps"}, "task": {"task": "rte"}, "fraction": {"fraction": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_what_differs_is_not_compared(name: str) -> None:
    runs = [record("full", 0, 0.8, **HASHES), record("lora", 0, 0.7, **(HASHES | APART[name]))]
    found = results(*runs)
    best = compare.against_best(found)
    scored = best[best["difference"].notna()]
    assert (scored["best"] == scored["method"]).all()
    if name in rankings.FIELDS and name != "pretrained":  # that changes the fingerprint too
        (note,) = [note for note in found.notes if note.startswith("Kept apart")]
        assert f"differ in {name} (" in note
        mixed = results(*runs, mix=(name,))
        assert getattr(mixed.settings[0], name) == "mixed"
        names = compare.against_best(mixed)["best"]
        assert [best.partition(" ")[0] for best in names] == ["full", "full"]
        if name in rankings.UNASKED:
            assert list(names) == ["full", "full"]


def test_random_weights_are_one_setting_though_each_seed_has_its_own() -> None:
    runs = [record("full", s, 0.5, pretrained=False, fingerprint=str(s)) for s in range(3)]
    (setting,) = results(*runs).settings
    assert setting.fingerprint == "by seed"


def test_a_run_that_failed_early_counts_in_the_setting_of_the_others() -> None:
    """It has no fingerprint and no hashes."""
    found = results(record("full", 0, 0.8, **HASHES), record("full", 1, None))
    assert len(found.settings) == 1
    assert cell(found, "full").failed == 1


@pytest.mark.parametrize("name", ["train_hash", "validation_hash", "test_hash", "metric"])
def test_runs_on_other_data_than_most_are_left_out(name: str) -> None:
    same = [record(method, s, 0.8, **HASHES) for method in ("full", "lora") for s in range(2)]
    other = record("ia3", 0, 0.9, **(HASHES | {name: "accuracy"}))
    found = results(*same, other)
    assert set(found.runs["method"]) == {"full", "lora"}
    (note,) = found.notes
    assert "ia3 seed 0" in note
    assert note.startswith("Left out of mrpc at 30 % (3 epochs)")


def test_after_a_file_was_mended_its_new_rows_count() -> None:
    """And some runs are left, whatever differs between them."""
    old = [record("full", s, 0.7, started=f"2026-01-0{s + 1}", **HASHES) for s in range(3)]
    mended = HASHES | {"train_hash": "new", "test_hash": "new"}
    new = [record("full", s, 0.8, started="2026-02-01", **mended) for s in range(2)]
    found = results(*old, *new)
    assert set(found.runs["test_hash"]) == {"new"}
    assert "full seed 2" in found.notes[0]
    odd = record("full", 0, 0.9, started="2026-03-01", **(HASHES | {"test_hash": "odd"}))
    assert set(results(*old, odd).runs["test_hash"]) == {HASHES["test_hash"]}
    assert len(results(*old, odd).runs) == 3, "the run that the odd one came after still counts"


def on_rows(method: str, seed: int, subset: int | None, rows: str) -> Record:
    return record(method, seed, 0.8, subset_seed=subset, **(HASHES | {"train_hash": rows}))


def test_seeds_may_have_rows_of_their_own_that_all_methods_share() -> None:
    runs = [on_rows(method, s, s, f"rows{s}") for method in ("full", "lora") for s in range(3)]
    found = results(*runs)
    (note,) = found.notes
    assert (len(found.runs), note[:36]) == (6, "Seeds train on rows of their own (da")
    older = [on_rows(run.method, 0, None, "rows0") for run in runs if run.seed == 0]
    assert len(results(*older, *(run for run in runs if run.seed)).runs) == 6, "that was subset 0"
    for odd in (on_rows("ia3", 0, 0, "rows1"), on_rows("ia3", 0, 1, "rows1")):
        found = results(*runs, odd)
        assert set(found.runs["method"]) == {"full", "lora"}
        assert "ia3 seed 0" in found.notes[0]


def test_fractions_have_rows_of_their_own() -> None:
    larger = HASHES | {"train_hash": "u", "fraction": 1.0}
    found = results(record("full", 0, 0.8, **HASHES), record("full", 0, 0.9, **larger))
    assert (len(found.runs), found.notes) == (2, ())


def test_rows_asked_for_by_number_are_called_so() -> None:
    runs = [
        record(method, s, 0.8 + s / 100, fraction=rows / 3668, rows_asked=rows)
        for method in ("full", "lora") for s in range(2) for rows in (32, 2048)
    ]  # fmt: skip
    text = shown(results(*runs))
    assert re.search(r"\| method +\| 32\srows +\| 2,048\srows +\|", text)
    assert "| 2,048\xa0rows | 10 " in text
    found = results(*runs, record("full", 2, 0.8, fraction=32 / 3668))
    made = compare.cells(found)
    mixed = ["0.872\xa0%", "2,048\xa0rows"]  # one of the smaller ones asked for a share
    assert sorted({formatting.amount(cell) for cell in made.to_dict("records")}) == mixed
    (table,) = paper.tables(found, made, compare.against_best(found))
    assert [head for head, _ in table.columns] == mixed


def names(*runs: Record) -> list[str]:
    """The methods of a report on some runs."""
    return list(dict.fromkeys(results(*runs).runs["method"]))


def test_a_method_run_in_several_ways_is_several_methods() -> None:
    swept = [record("lora", 0, 0.8, overrides=["method=lora", f"optim.lr={lr}", "seed=0"], lr=lr)
             for lr in (1e-3, 1e-2)]  # fmt: skip
    assert names(*swept, record("full", 0, 0.9)) == [
        "full", "lora optim.lr=0.001", "lora optim.lr=0.01",
    ]  # fmt: skip
    assert names(swept[0], record("full", 0, 0.9)) == ["full", "lora"], "its own rate, told once"
    old = [record("lora", 0, 0.8, overrides=[f"optim.lr={lr}"]) for lr in (1e-3, 1e-2)]
    assert names(*old) == ["lora optim.lr=0.001", "lora optim.lr=0.01"], "records without a rate"


def test_arguments_of_a_method_always_show_and_other_settings_where_they_differ() -> None:
    small = record("lora", 0, 0.8, overrides=["method=lora", "method.rank=4", "data.batch_size=8"])
    assert names(small) == ["lora method.rank=4"]
    other = record("full", 0, 0.8, overrides=["data.batch_size=32", "trainer.threads=1"])
    assert names(small, other) == [
        "full data.batch_size=32", "lora data.batch_size=8 method.rank=4",
    ]  # fmt: skip
    assert names(small, record("full", 0, 0.8, overrides=["+data.batch_size=8"])) == [
        "full", "lora method.rank=4",
    ]  # fmt: skip


def test_several_tries_of_a_seed_count_once() -> None:
    days = {"2026-01-01": 0.7, "2026-03-01": 0.8, "2026-04-01": None}
    tries = [record("full", 0, score, started=day) for day, score in days.items()]
    found = results(*tries)
    assert list(found.runs["test"]) == [0.8], "the last that ended well"
    assert found.notes == (
        "2 earlier tries of runs that are there again: the last that ended well counts.",
    )
    assert list(results(tries[2], record("full", 0, None)).runs["status"]) == ["failed"]


def test_runs_of_several_experiments_in_one_table_are_told() -> None:
    runs = [record("full", 0, 0.8, overrides=["experiment=demo"]), record("lora", 0, 0.8)]
    assert any("several experiments (demo; none)" in note for note in results(*runs).notes)
    assert not results(*runs[:1]).notes


def test_tuning_trials_are_left_out(tmp_path: Path) -> None:
    trial = record("lora", 0, None, trial=1, validation=0.9)
    with pytest.raises(UserError, match=r"tuning trials; finegrid tune reads them"):
        load([saved(tmp_path / "trials", trial)])
    saved(tmp_path / "trials/more", record("full", 0, 0.8))
    found = gather(load([tmp_path / "trials"]))
    assert len(found.runs) == 1
    assert found.notes == (
        "1 run of the search for rates not in the tables, as they have no test score; finegrid "
        "tune reads them.",
    )


@pytest.mark.parametrize(
    ("threads", "device", "cpu", "marked"),
    [
        (1, "cpu x86_64", 99.0, False),
        (1, "cpu x86_64", 55.0, True),
        (8, "cpu x86_64", 500.0, False),
        (8, "cpu x86_64", 250.0, True),
        (2, "NVIDIA H100", 30.0, False),  # waits for the GPU
        (1, "cpu x86_64", None, False),  # of an earlier version
    ],
)
def test_seconds_of_a_busy_machine_are_marked(
    threads: int, device: str, cpu: float | None, marked: bool
) -> None:
    facts = {"threads": threads, "device": device, "train_seconds": 100.0}
    busy = record("lora", 0, 0.8, train_cpu_seconds=cpu, **facts)
    quiet = record("full", 0, 0.8, train_cpu_seconds=95.0 * threads, **facts)
    found = results(busy, quiet).notes
    assert [note for note in found if "not to be compared" in note] == (
        [
            f"Training times not to be compared: 1 run shared the cores with other work "
            f"({cpu / 100:.2g} CPU seconds a second): lora on mrpc (1)."
        ]
        if marked and cpu
        else []
    )


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, ""),
        ({"fused": 3}, "memory not to be compared: 3 runs shared passes, whose costs were divided"),
        ({"matmul_rate": 5e10}, "unlike speed: from 50 GFLOP/s (bitfit) to 100 (full)"),
        ({"train_cpu_seconds": 20.0}, "3 runs shared the cores with other work"),
    ],
    ids=str,
)
def test_seconds_that_are_not_alike_name_no_quickest(facts: dict[str, float], said: str) -> None:
    usual = {"train_cpu_seconds": 100.0, "matmul_rate": 1e11, "threads": 1, "device": "cpu"}
    runs = [
        record(method, seed, score + 0.01 * seed, test_rows=400,
               **(usual | {"train_seconds": seconds} | (facts if method == "bitfit" else {})))
        for method, score, seconds in (("full", 0.81, 100.0), ("bitfit", 0.8, 50.0))
        for seed in range(3)
    ]  # fmt: skip
    made = Comparison.of(results(*runs).runs.drop(columns="setting"))
    assert ("trains quickest" in answer(made).sentence) == (not said)
    assert [said in note for note in made.results.notes if "Training times" in note] == (
        [True] if said else []
    )
    shown = tables.markdown(made.results, made.cells, made.best)
    shared = bool(said) and "matmul_rate" not in facts
    assert (formatting.ABOUT in shown, formatting.ABOUT in html_page.page(made)) == (
        shared,
        shared,
    )


def test_ties_are_marked_and_the_others_are_not() -> None:
    scores = {"full": 0.9, "lora": 0.899, "head": 0.5}
    runs = [record(method, seed, score + 0.001 * (seed * len(method) % 3), test_rows=400)
            for method, score in scores.items() for seed in range(5)]  # fmt: skip
    lines = {
        line.split()[1]: line for line in shown(results(*runs)).splitlines() if "±" in line[9:]
    }
    assert "**0.9" in lines["full"]
    assert "**0.8" in lines["lora"]
    assert "**" not in lines["head"]
    found = results(*runs)
    cells, best = compare.cells(found), compare.against_best(found)
    (table,) = map(paper.latex, paper.tables(found, cells, best))
    assert re.search(r"full & \\textbf\{90\.\d \$\\pm\$ \d\.\d\} &", table)
    assert re.search(r"lora & \d\d\.\d \$\\pm\$ \d\.\d\$\^\\dagger\$ &", table)
    assert re.search(r"head & \d\d\.\d \$\\pm\$ \d\.\d &", table)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods, two fractions, three seeds, with predictions of 100 rows."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100)
    directory = tmp_path_factory.mktemp("sweep")
    for number, (method, fraction, seed) in enumerate(
        (m, f, s) for m in ("full", "head", "lora_x") for f in (0.3, 1.0) for s in range(3)
    ):
        right = rng.random(100) < {"full": 0.9, "head": 0.6, "lora_x": 0.88}[method]
        score = float(right.mean())
        run = record(method, seed, score, fraction=fraction, metric="accuracy", test_rows=100,
                     metrics={"test": {"accuracy": score}}, train_rows=300, **HASHES)  # fmt: skip
        own = directory / f"mrpc/tiny/{method}/f{fraction:g}-s{seed}-{number}"
        own.mkdir(parents=True)
        run.write(own)
        columns = {"split": ["test"] * 100, "idx": range(100), "label": labels,
                   "prediction": np.where(right, labels, 1 - labels)}  # fmt: skip
        pq.write_table(pa.table(columns), own / "predictions.parquet")
    return directory


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Call the script."""
    return call(*map(str, arguments), command="report")


def test_a_report_prints_tables(sweep: Path) -> None:
    result = report(sweep)
    assert result.returncode == 0, result.stderr
    assert "### mrpc, tiny: accuracy" in result.stdout
    assert re.search(r"\| head +\| 0\.\d+ ± 0\.\d+ \(3, no better", result.stdout)
    assert re.search(r"\| head +\| 0\.[23]\d+ \[0\.\d+, 0\.\d+\]", result.stdout)
    assert "delta params" in result.stdout
    assert "bits a trained number" in result.stdout
    assert not result.stderr


def test_a_report_is_written_whole_and_can_be_written_again(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = report(sweep, "--out", out, "--format", "md,csv,latex,parquet")
    assert result.returncode == 0, result.stderr
    written = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.*")}
    assert {"report.md", "runs.parquet", "csv/cells.csv", "csv/against_best.csv", "csv/across.csv",
            "csv/settings.csv", "paper.md", "latex/01-mrpc-tiny.tex",
            "latex/references.bib"} <= set(written)  # fmt: skip
    assert not [name for name in written if name.startswith(("report.html", "figures"))]
    assert rb"lora\_x &" in written["latex/01-mrpc-tiny.tex"]
    assert report(sweep, "--out", out, "--format", "md,csv,latex,parquet").returncode == 0
    again = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.*")}
    assert written == again


def test_stored_runs_stand_for_their_directories(sweep: Path, tmp_path: Path) -> None:
    assert report(sweep, "--out", tmp_path, "--format", "parquet").returncode == 0
    result = report(tmp_path / "runs.parquet")
    assert result.returncode == 0, result.stderr
    first = report(sweep)
    assert result.stdout == first.stdout, "the same runs give the same verdict in either form"
    assert "predictions are missing" not in first.stdout
    again = tmp_path / "again"
    assert report(tmp_path / "runs.parquet", "--out", again, "--format", "parquet").returncode == 0
    assert report(again / "runs.parquet").stdout == first.stdout, "and so does their copy"


@pytest.mark.slow
def test_everything_at_once(sweep: Path, tmp_path: Path) -> None:
    result = report(sweep, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    files = list(tmp_path.rglob("*.*"))
    told = f"wrote {tmp_path / 'report.html'} and {len(files) - 1} other files"
    assert result.stdout.strip() == told
    kinds = {path.suffix for path in files}
    assert kinds == {".md", ".html", ".csv", ".tex", ".bib", ".svg", ".png", ".parquet"}


BAD = {
    "nothing": (["{empty}"], r"no record\.json below .*; run a sweep first"),
    "nowhere": (["{empty}/x"], r"no such directory: .*/x"),
    "format": (["{sweep}", "--out", "{empty}", "--format", "doc"],
               r"unknown --format doc; .*\(available: csv, html, latex, md, parquet, pdf, png\)"),
    "format alone": (["{sweep}", "--format", "md"], r"name a directory with --out"),
    "mix": (["{sweep}", "--mix", "versoin"], r"unknown --mix versoin; did you mean 'version'"),
    "level": (["{sweep}", "--level", "95"], r"--level 95 must lie between 0\.5 and 1"),
    "parquet": (["{other}"], r"other\.parquet lacks .*; give a runs\.parquet of a report"),
    "no run": (["{none}"], r"none\.parquet holds no run"),
    "no parquet": (["{empty}/no.parquet"], r"no\.parquet is not a readable parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line(name: str, sweep: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"a": pa.array([], "int64")}), none := tmp_path / "none.parquet")
    places = {"sweep": sweep, "empty": tmp_path / "empty", "other": other, "none": none}
    arguments, message = BAD[name]
    result = report(*(argument.format(**places) for argument in arguments))
    assert result.returncode == 1
    assert len(errors(result)) == 1
    assert re.search(message, result.stderr)
    assert not result.stdout


def test_a_report_needs_no_torch_and_draws_nothing_it_does_not_show(sweep: Path) -> None:
    code = (
        f"import sys; from finegrid import cli; cli.main(['report', {str(sweep)!r}]);"
        "print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = set(result.stderr.split())
    assert not loaded & {"torch", "pytorch_lightning", "transformers", "datasets", "matplotlib"}
    assert not loaded & {
        "jinja2",
        "scipy.stats",
        "finegrid.report.html.page",
        "finegrid.report.figures.draw",
    }


def test_methods_are_named_by_what_is_mixed() -> None:
    """What was asked for, but for a usual value; not how a run was made."""
    usual = record("full", 0, 0.8, **HASHES)
    for name, names in {
        "model": {"full model=tiny", "full model=minilm"},
        "head": {"full", "full head=pattern"},
        "precision": {"full"},
    }.items():
        mixed = results(usual, record("full", 1, 0.7, **(HASHES | APART[name])), mix=(name,))
        assert set(mixed.runs["method"]) == names
