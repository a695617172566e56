"""Published numbers: every name is known or explained, and only what is alike is drawn."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import call
from conftest import METHODS, MODELS, ROOT, TASKS, composed
from omegaconf import OmegaConf

from finegrid.commands.catalogue import options
from finegrid.config import RunConfig, register_resolvers
from finegrid.errors import UserError
from finegrid.grid import plan as survey
from finegrid.report.load import published
from finegrid.storage.paths import CONF

PAPERS = published.papers()
REPRODUCED = [
    name.partition("/")[2] for name in options("experiment") if name.startswith("reproduce/")
]
OURS = {name: OmegaConf.load(ROOT / f"conf/task/{name}.yaml").metrics for name in TASKS}
METRICS = {"accuracy", "f1", "matthews", "pearson", "spearman", "average", "unclear"}


@cache
def refs() -> pd.DataFrame:
    """All published scores."""
    return published.references()


def scores(paper: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every score of a paper's file, with its table."""
    for table in paper.get("tables", ()):
        for score in table["scores"]:
            yield table, score


@pytest.mark.parametrize("name", PAPERS)
class TestFile:
    """What every file in conf/reference/ keeps to."""

    def test_it_says_what_it_is_and_where_it_comes_from(self, name: str) -> None:
        paper = PAPERS[name]
        text = (published.DIRECTORY / f"{name}.yaml").read_text(encoding="utf-8")
        first, second = text.splitlines()[:2]
        assert first.startswith(f"# {name}: ")
        assert second == "paper:"
        assert {"title", "authors", "year"} <= paper["paper"].keys()
        assert ("arxiv" in paper["paper"]) != ("url" in paper["paper"])
        tagged = [paper["source"], *(table.get("source") for table in paper.get("tables", ()))]
        assert {tag for tag in tagged if tag} <= {"primary", "secondary"}

    def test_a_name_is_ours_or_explained(self, name: str) -> None:
        paper = PAPERS[name]
        other = paper.get("other", {})
        named = {score["method"].partition(" ")[0] for _, score in scores(paper)} - {*METHODS}
        named |= {score["task"] for _, score in scores(paper)} - {*TASKS}
        backbones = {paper["protocol"]["backbone"]} if not list(scores(paper)) else set()
        for table, _ in scores(paper):
            protocol = paper["protocol"] | table.get("protocol", {})
            named |= {protocol["backbone"]} - {*MODELS, "not found"}
        assert named <= other.keys()
        assert other.keys() <= named | backbones, "explained, and not used"
        assert not other.keys() & {*METHODS, *TASKS, *MODELS}

    def test_scores_are_percent_of_a_known_metric_and_each_is_there_once(self, name: str) -> None:
        found = set()
        for table, score in scores(PAPERS[name]):
            assert score["metric"] in METRICS
            assert -100 <= score["score"] <= 100
            assert 0 <= score.get("sd", 0) < 50
            if score["task"] in TASKS and score["metric"] != "unclear":
                assert score["metric"] in OURS[score["task"]]
            key = (table["title"], score["method"], score["task"], score["metric"], score.get("n"))
            assert key not in found
            found.add(key)


def test_a_variant_of_ours_is_one_that_composes() -> None:
    variants = {
        score["method"] for paper in PAPERS.values() for _, score in scores(paper)
        if " " in score["method"]
    }  # fmt: skip
    assert "houlsby_layernorm method.reduction_factor=12" in variants
    for variant in variants:
        method, *overrides = variant.split(" ")
        assert composed(f"method={method}", *overrides).method.name == method


def one(paper: str, method: str, task: str, **more: object) -> pd.Series:
    """The one row of this kind."""
    rows = refs().query("paper == @paper and method == @method and task == @task")
    for key, value in more.items():
        rows = rows[rows[key] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_frame_holds_them_all_from_0_to_1() -> None:
    count = sum(1 for paper in PAPERS.values() for _ in scores(paper))
    ours = refs()[refs().metric != "mean"]
    assert len(ours) == count > 400
    assert list(refs().columns) == list(published.COLUMNS)
    row = one("unipelt2022", "bitfit", "cola", n=1000)
    assert (row.score, row.sd) == (pytest.approx(0.2244), pytest.approx(0.1710))
    assert (row.backbone, row.split, row.source) == ("bert-base", "holdout", "primary")
    row = one("sam2023", "pfeiffer", "cola", table="Main table")
    assert (row.score, row.sd) == (pytest.approx(0.6211), pytest.approx(0.0122))
    row = one("houlsby2019", "houlsby_layernorm", "mrpc", metric="f1")
    assert (row.score, row.split) == (pytest.approx(0.896), "server")
    assert one("bitfit", "bitfit", "cola").source == "secondary"


def test_a_mean_of_both_metrics_is_our_headline() -> None:
    row = one("run_glue", "full", "mrpc", metric="mean")
    assert row.score == pytest.approx((0.8885 + 0.8407) / 2)
    assert row.note == "our mean of f1 and accuracy"
    assert set(refs()[refs().metric == "mean"].task) == {"mrpc", "stsb", "qqp"}


def drawn(model: str, task: str, metric: str, protocol: str, **more: Any) -> set[str]:
    """The labels of what may be drawn."""
    found = published.matching(
        refs(), model=model, task=task, metric=metric, protocol=protocol, **more
    )
    return set(found.label)


def test_only_what_is_alike_is_drawn() -> None:
    held_out = drawn("roberta-base", "cola", "matthews", "holdout")
    assert {"full (sam2023)", "sparse_sam (sam2023)"} <= held_out
    assert drawn("roberta-base", "cola", "matthews", "dev") == {"lora (lora2021)"}
    assert not drawn("roberta-base", "cola", "accuracy", "holdout")
    assert not drawn("roberta-large", "cola", "matthews", "holdout")
    assert not drawn("roberta-base", "mrpc", "f1", "holdout"), "its metric is unclear"


def test_another_start_another_case_and_the_server_are_never_drawn() -> None:
    assert not drawn("roberta-base", "mrpc", "accuracy", "dev"), "starts from MNLI"
    assert not drawn("bert-base", "mnli", "accuracy", "dev"), "case not found"
    assert not drawn("bert-large", "cola", "matthews", "server")
    every = {(row.backbone, row.split) for row in refs().itertuples()}
    assert ("bert-large, case not found", "server") in every


def test_few_examples_are_another_thing() -> None:
    assert "bitfit (unipelt2022)" not in drawn("bert-base", "cola", "matthews", "holdout")
    assert "bitfit (unipelt2022)" in drawn("bert-base", "cola", "matthews", "holdout", n=500)


def test_a_file_that_lacks_something_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no published numbers in"):
        published.references(tmp_path)
    text = "source: primary\nprotocol: {backbone: bert-base, lr: 1}\n"
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"says nothing of split, selection, seeds"):
        published.references(tmp_path)


def test_the_page_is_what_the_script_prints() -> None:
    result = call(command="references")
    assert result.returncode == 0, result.stderr
    page = (ROOT / "docs/results/references.md").read_text(encoding="utf-8")
    assert page == result.stdout, "finegrid references --out docs/results/references.md"
    assert all(f"\n## {name}\n" in page for name in PAPERS)
    assert page.count("| yes |") == len(REPRODUCED)


@pytest.mark.parametrize("name", REPRODUCED)
def test_a_reproduction_says_what_is_the_papers_and_what_is_ours(name: str) -> None:
    assert name in PAPERS
    path = ROOT / f"conf/experiment/reproduce/{name}.yaml"
    head = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert head.startswith(f"# @package _global_\n# {name}: ")
    assert "'s" in head.splitlines()[2]
    assert "Not found, ours: " in " ".join(head.split("\n# "))


PUBLISHED = {
    "bitfit": (["method=bitfit"], {"optim.lr": 1e-3, "data.batch_size": 8, "budget.epochs": 16}),
    "bitfit, full": (["method=full"], {"optim.lr": 1e-5, "optim.schedule": "constant"}),
    "lora2021": (["task=rte"], {"optim.lr": 5e-4, "budget.epochs": 80, "data.batch_size": 256}),
    "lora2021, mrpc": (["task=mrpc"], {"optim.lr": 4e-4, "model.max_length": 512}),
    "houlsby2019": ([], {"optim.lr": 3e-4, "budget.epochs": 5, "method.reduction_factor": 12}),
    "sam2023": ([], {"optim.lr": 1e-4, "data.protocol": "holdout", "budget.steps": 20000}),
    "unipelt2022": (["method=lora"], {"optim.lr": 5e-4, "data.validation_max": 1000}),
    "run_glue": (["task=mrpc"], {"budget.epochs": 5, "select": "last", "data.protocol": "dev"}),
}


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_reproduction_has_the_papers_settings(key: str) -> None:
    overrides, wanted = PUBLISHED[key]
    cfg = composed(f"experiment=reproduce/{key.partition(',')[0]}", *overrides)
    RunConfig.of(cfg)
    for path, value in wanted.items():
        node: Any = cfg
        for part in path.split("."):
            node = node[part]
        assert node == value, path
    assert cfg.optim.head_lr is None, "one rate for all that trains"


TRAIN = {"mrpc": 3668, "cola": 8551, "stsb": 5749}  # rows of GLUE


@pytest.mark.parametrize("task", TRAIN)
def test_a_fraction_stands_for_so_many_examples(task: str) -> None:
    """As data.used_rows rounds it, once 1,000 rows are held out."""
    for examples in (100, 500, 1000):
        told = (f"task={task}", f"examples={examples}")
        data = composed("experiment=reproduce/unipelt2022", *told).data
        held_out = min(round(data.validation_fraction * TRAIN[task]), data.validation_max)
        assert held_out == 1000
        assert round(data.fraction * (TRAIN[task] - held_out)) == examples


def test_a_reproduction_can_be_planned_without_its_data() -> None:
    register_resolvers()
    plan = survey.planned(["experiment=reproduce/lora2021", "seed=0"], conf=CONF)
    assert str(plan.root) == "multirun/reproduce/lora2021"
    rates = {cell.facts["task"]: cell.facts["lr"] for cell in plan.cells}
    assert rates == {"cola": 4e-4, "sst2": 5e-4, "mrpc": 4e-4, "stsb": 4e-4, "rte": 5e-4}
    assert all(cell.facts["protocol"] == "dev" for cell in plan.cells)
