"""Measurements in parameter space: closed forms, and runs whose answers are known."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT, Runs, composed
from test_models import build_small
from torch import Tensor

from finegrid import cli
from finegrid.analysis import distances, importance, interpolation, measure, overlap, spectra
from finegrid.analysis.weights import Solution, Weights, finished, place
from finegrid.config import RunConfig, bind_task
from finegrid.errors import UserError
from finegrid.inference import Restored
from finegrid.models import backbone, surgery
from finegrid.models.anatomy import ANATOMY
from finegrid.models.backbone import Backbone
from finegrid.models.sites import Sites
from finegrid.runs import delta
from finegrid.runs.record import read
from finegrid.training.components import build_method

TINY = ("model=tiny", "task=builtin_paraphrase")
QUERY = "bert.encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights()


def fresh(weights: Weights, method: str, *, seed: int = 0, size: float = 0.1) -> Solution:
    """A tuned tiny model, moved at random from where it starts, as if a run had ended there."""
    cfg = composed(*f"method={method}".split(), *TINY, f"seed={seed}")
    config, task = RunConfig.of(cfg), bind_task(cfg.task)
    base = backbone.build(config.model, outputs=task.outputs, seed=seed)
    build_method(RunConfig.of(cfg).method).tune(base, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in surgery.trainable(base.model).values():
            parameter.add_(torch.randn_like(parameter), alpha=size)
    record: Any = SimpleNamespace(method=method, model="tiny")
    return weights.of(Restored(config, record, task, base.model, None))


def moved(solution: Solution, name: str, change: Tensor) -> None:
    with torch.no_grad():
        solution.run.model.get_parameter(name).add_(change)


def row(frame: pd.DataFrame, name: str) -> Any:
    (found,) = frame[frame["name"] == name].itertuples()
    return found


@pytest.mark.parametrize("angle", [1e-7, 0.3, math.pi / 2, 3.0])
def test_a_rotation_has_its_angle(angle: float) -> None:
    a, b = torch.linalg.qr(torch.randn(50, 2, dtype=torch.float64)).Q.T * 3
    turned = math.cos(angle) * a + math.sin(angle) * b
    found = distances.distance(a.view(5, 10), turned.view(5, 10))
    assert found.angle == pytest.approx(angle, rel=1e-6)
    assert found.l2 == pytest.approx(6 * math.sin(angle / 2), rel=1e-6)
    assert found.l1 == pytest.approx(float((turned - a).abs().sum()))


def test_no_distance_and_no_angle() -> None:
    a = torch.randn(7)
    assert distances.distance(a, a) == distances.Distance(0.0, 0.0, 0.0)
    assert distances.distance(a, -2 * a).angle == pytest.approx(math.pi)
    assert math.isnan(distances.distance(a, torch.zeros(7)).angle)


def test_distances_are_told_against_a_random_initialisation(weights: Weights) -> None:
    solution = fresh(weights, "head")
    before = solution.start.model.get_parameter(f"{QUERY}.weight")
    moved(solution, f"{QUERY}.weight", before.detach())  # twice the length, the same direction
    frame = distances.table(solution)
    assert len(frame) == len(list(solution.start.model.base_model.parameters()))
    assert int(frame["numel"].sum()) == 501120
    query = row(frame, f"{QUERY}.weight")
    assert (query.layer, query.kind, query.numel) == (0, "query", 128 * 128)
    assert query.l2 == pytest.approx(query.l2_pretrained)
    assert query.l1 == pytest.approx(query.l1_pretrained)
    assert query.angle == pytest.approx(0, abs=1e-6)
    assert query.angle_random == pytest.approx(math.pi / 2, abs=0.1)
    random = solution.random.model.get_parameter(f"{QUERY}.weight")
    spread = solution.start.model.config.initializer_range
    assert float(random.std()) == pytest.approx(spread, rel=0.05), "BERT's own initialiser"
    assert query.l2_random == pytest.approx(float((random - before).norm()))
    assert query.ratio == query.l2 / query.l2_random
    assert frame.loc[frame["name"] != query.name, ["l1", "l2", "angle"]].fillna(0).eq(0).all(None)


def test_kinds_are_roles(weights: Weights) -> None:
    frame = distances.table(fresh(weights, "head"))
    assert set(frame["kind"]) == {
        "query", "key", "value", "attention_output", "intermediate", "output", "layernorm",
        "pooler", "embeddings",
    }  # fmt: skip
    outside = frame[frame["layer"].isna()]
    assert set(outside["kind"]) == {"embeddings", "layernorm", "pooler"}
    assert row(frame, f"{QUERY}.bias").kind == "query"
    assert row(frame, "bert.encoder.layer.2.output.LayerNorm.weight").kind == "layernorm"


@pytest.mark.parametrize("model_type", sorted(ANATOMY))
def test_every_architectures_parameters_have_a_kind(model_type: str) -> None:
    model = build_small(model_type)
    sites, base = Sites.of(model), f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters() if name.startswith(base)]
    places = {name: place(name, sites) for name in names}
    others = {name for name, (_, kind) in places.items() if kind == "other"}
    projections = ("embeddings_project.", "embedding_hidden_mapping_in.", "rel_embeddings.")
    assert all(name.removeprefix(base).removeprefix("encoder.").startswith(projections)
               for name in others)  # fmt: skip
    assert {layer for layer, _ in places.values()} == {None, *range(sites.n_layers)}
    assert {kind for layer, kind in places.values() if layer is not None} == {
        *sites.linear, "layernorm"
    }  # fmt: skip


@pytest.mark.parametrize(
    "method", ["full", "bitfit", "sparse", "supermask", "mask_random", "lora", "ia3", "dsee"]
)
def test_what_is_told_is_what_a_merged_model_holds(method: str, weights: Weights) -> None:
    solution = fresh(weights, method)
    untouched = backbone.fingerprint(solution.start.model.base_model)
    found = {change.name: change.after.clone() for change in solution.changes()}
    assert not solution.unmerged()
    surgery.merge(solution.run.model)
    merged = dict(solution.run.model.named_parameters())
    assert all(torch.equal(value, merged[name]) for name, value in found.items())
    assert any(change.delta.any() for change in solution.changes())
    assert backbone.fingerprint(solution.start.model.base_model) == untouched


def test_what_does_not_merge_is_reported(weights: Weights) -> None:
    frames = measure.measured(fresh(weights, "houlsby"))
    assert set(frames["injected"]["type"]) == {"Bottleneck"}
    assert len(frames["injected"]) == 6
    assert frames["distances"]["l2"].eq(0).all()
    assert frames["importance"]["share"].eq(0).all()
    both = measure.measured(fresh(weights, "unipelt"))
    assert "GatedLowRank" in set(both["injected"]["type"])


def test_bitfit_moves_biases_only(weights: Weights) -> None:
    frame = distances.table(fresh(weights, "bitfit"))
    biases = frame["name"].str.endswith(".bias")
    assert frame.loc[biases, "l2"].gt(0).all()
    assert frame.loc[~biases, "l2"].eq(0).all()


def test_a_spectrum_of_equal_values() -> None:
    left, right = (torch.linalg.qr(torch.randn(n, 10, dtype=torch.float64)).Q for n in (40, 30))
    found = spectra.summary(2 * left @ right.T, weight=torch.ones(40, 30))
    assert (found["rank"], found["n90"]) == (10, 9)
    for name, value in {"stable_rank": 10, "effective_rank": 10, "s1": 2, "s5": 2}.items():
        assert found[name] == pytest.approx(value), name


def test_a_spectrum_of_known_values() -> None:
    values = torch.tensor([4.0, 2.0, 1.0])
    found = spectra.summary(torch.diag(values), weight=torch.eye(3))
    shares = values / 7
    assert found["stable_rank"] == pytest.approx(21 / 16)
    assert found["effective_rank"] == pytest.approx(float((-(shares * shares.log()).sum()).exp()))
    assert (found["n90"], found["rank"]) == (2, 3)
    assert [found[f"s{n}"] for n in (1, 2, 3)] == pytest.approx([4, 2, 1])
    still = spectra.summary(torch.zeros(3, 3), weight=torch.eye(3))
    assert still["rank"] == 0
    assert math.isnan(still["stable_rank"])


@pytest.mark.parametrize("size", [1e-3, 0.1])
@pytest.mark.parametrize("rank", [1, 4])
def test_the_rank_of_loras_update_is_loras(rank: int, size: float, weights: Weights) -> None:
    frame = spectra.table(fresh(weights, f"lora method.rank={rank}", size=size))
    adapted = frame["kind"].isin(["query", "value"])
    assert frame.loc[adapted, "rank"].eq(rank).all()
    assert frame.loc[~adapted, "rank"].eq(0).all()
    assert frame.loc[adapted, "stable_rank"].le(rank + 1e-6).all()


def test_spectra_are_of_matrices(weights: Weights) -> None:
    solution = fresh(weights, "full")
    plain, all_ = spectra.table(solution), spectra.table(solution, embeddings=True)
    assert len(plain) == 3 * 6 + 1
    assert len(all_) == len(plain) + 3
    assert (plain["rank"] == plain[["rows", "columns"]].min(axis=1)).all()
    (first,) = (change for change in solution.changes() if change.name == f"{QUERY}.weight")
    exact = torch.linalg.svdvals(first.delta)
    assert torch.allclose(spectra.singular_values(first.delta), exact, rtol=1e-6, atol=1e-7)


def test_importance_is_a_share(weights: Weights) -> None:
    solution = fresh(weights, "head")
    moved(solution, f"{QUERY}.weight", torch.full((128, 128), 0.1))  # square 163.84
    moved(solution, "bert.encoder.layer.1.output.dense.bias", torch.full((128,), 0.4))  # 20.48
    frame = importance.table(distances.table(solution))
    assert frame["share"].sum() == pytest.approx(1)
    assert frame["share_numel"].sum() == pytest.approx(1)
    shares = frame[frame["share"] > 0].set_index(["layer", "kind"])["share"]
    assert shares[0, "query"] == pytest.approx(8 / 9, rel=1e-4)
    assert shares[1, "output"] == pytest.approx(1 / 9, rel=1e-4)


def test_the_overlap_of_known_places(weights: Weights) -> None:
    a, b = fresh(weights, "head"), fresh(weights, "head")
    changes = [torch.zeros(128, 128) for _ in range(2)]
    changes[0].view(-1)[:300] = 1.0
    changes[1].view(-1)[200:400] = 2.0
    for solution, change in zip((a, b), changes, strict=True):
        moved(solution, f"{QUERY}.weight", change)
    found = row(overlap.table(a, b), f"{QUERY}.weight")
    assert (found.changed_a, found.changed_b, found.both, found.either) == (300, 200, 100, 400)
    assert found.jaccard == 0.25
    p, q = 300 / 128**2, 200 / 128**2
    assert found.expected == pytest.approx(p * q / (p + q - p * q))
    assert found.cosine == pytest.approx(100 * 2 / (math.sqrt(300) * math.sqrt(800)), rel=1e-5)


def test_random_masks_overlap_as_expected(weights: Weights) -> None:
    a, b = (fresh(weights, "mask_random method.sparsity=0.3", seed=seed) for seed in (0, 1))
    frame = overlap.table(a, b)
    assert len(frame) == 18
    assert frame["jaccard"].to_numpy() == pytest.approx(frame["expected"].to_numpy(), abs=0.02)
    assert frame["expected"].to_numpy() == pytest.approx(0.3 / 1.7, abs=1e-3)
    whole = overlap.pooled(frame, ["kind"])
    assert len(whole) == 6
    assert whole["both"].sum() == frame["both"].sum()
    zeros = overlap.pooled_zeros(overlap.zeros(a))
    assert zeros["sparsity"] == pytest.approx(0.3, abs=1e-3)
    assert zeros["magnitude"] == pytest.approx(zeros["expected"], abs=0.01)


def test_masks_of_the_smallest_weights_are_told(weights: Weights) -> None:
    frame = overlap.zeros(fresh(weights, "mask_magnitude method.sparsity=0.25"))
    assert len(frame) == 18
    assert frame["sparsity"].eq(0.25).all()
    assert frame["magnitude"].eq(1).all()
    assert overlap.zeros(fresh(weights, "full")).empty


def test_weights_load_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = runs("method=full"), runs("method=full seed=1")
    built = []

    def build(*args: Any, **named: Any) -> Backbone:
        built.append(named["outputs"])
        return load(*args, **named)

    load = backbone.build
    monkeypatch.setattr(backbone, "build", build)
    own = Weights()
    first, second = map(own.solution, directories)
    assert len(built) == 2, "the pre-trained and the random weights"
    both = [one.start.model.get_parameter(f"{QUERY}.weight") for one in (first, second)]
    assert both[0].data_ptr() == both[1].data_ptr()
    assert backbone.fingerprint(first.start.model.base_model) == first.start.fingerprint
    tuned = [s.run.model.get_parameter(f"{QUERY}.weight") for s in (first, second)]
    assert not torch.equal(*tuned)
    other = own._load(first.run.config.model, outputs=1, seed=0)
    places = [s.model.get_parameter(f"{QUERY}.weight").data_ptr() for s in (first.start, other)]
    assert places[0] == places[1], "another head, the same memory"


def test_another_backbones_delta_is_refused(runs: Runs, tmp_path: Path) -> None:
    directory = runs("method=lora")
    (tmp_path / ".hydra").mkdir()
    for name in ("record.json", ".hydra/config.yaml"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    model, labels = Weights().solution(directory).run.model, ["a", "b"]
    path = tmp_path / delta.FILE
    delta.save(path, model, method="lora", fingerprint="0" * 16, labels=labels)
    with pytest.raises(UserError, match="not what its run wrote"):
        Weights().solution(tmp_path)
    record = replace(read(directory), delta_digest=None)
    record.write(tmp_path)
    with pytest.raises(UserError, match="fingerprint 0000000000000000, not"):
        Weights().solution(tmp_path)


def test_the_ends_of_a_line_are_the_runs(runs: Runs, weights: Weights) -> None:
    directories = [runs("method=full"), runs("method=full seed=1")]
    a, b = map(weights.solution, directories)
    frame = interpolation.table(a, b, points=3)
    assert frame["alpha"].unique().tolist() == [0, 0.5, 1]
    scores = frame[frame["headline"]].set_index("alpha")["score"]
    assert scores[0.0] == read(directories[0]).validation
    assert scores[1.0] == read(directories[1]).validation
    tested = interpolation.table(a, b, points=2, where="test")
    assert tested[tested["headline"]]["score"].tolist() == [read(d).test for d in directories]


def test_lines_that_cannot_be(runs: Runs, weights: Weights) -> None:
    full, houlsby = weights.solution(runs("method=full")), fresh(weights, "houlsby")
    houlsby.run.record.__dict__.update(full.run.record.__dict__ | {"method": "houlsby"})
    with pytest.raises(UserError, match=r"houlsby: .*Bottleneck\) does not merge"):
        interpolation.table(full, houlsby)
    houlsby.run.record.task = "mrpc"
    with pytest.raises(UserError, match="of task builtin_paraphrase and mrpc"):
        interpolation.table(full, houlsby)
    with pytest.raises(UserError, match="at least 2"):
        interpolation.table(full, full, points=1)


def test_pairs_differ_in_one_thing(runs: Runs) -> None:
    places = [runs(one) for one in ("method=full", "method=full seed=1", "method=lora")]
    found = finished([places[0].parent])
    names = {path.name for path in found}
    assert {"method=full", "method=full-seed=1", "method=lora"} <= names
    pairs = [(a.name, b.name) for a, b in overlap.pairs(found)]
    assert pairs == [("method=full", "method=full-seed=1")]
    assert len(overlap.pairs(found, every=True)) == 3
    with pytest.raises(UserError, match="no finished run at or below"):
        finished([ROOT / "conf"])


RUN = ["cell", "method", "task", "model", "fraction", "budget_unit", "budget", "seed", "overrides"]
PLACE = ["layer", "kind", "name", "numel"]
COLUMNS = {
    "distances": [
        *RUN, *PLACE, "l1", "l2", "angle", "l1_random", "l2_random", "angle_random", "ratio",
        "l1_pretrained", "l2_pretrained",
    ],
    "importance": [*RUN, "layer", "kind", "numel", "share", "share_numel", "concentration"],
    "spectra": [
        *RUN, *PLACE, "rows", "columns", "rank", "stable_rank", "effective_rank", "n90",
        "s1", "s2", "s3", "s4", "s5",
    ],
    "masks": [*RUN, *PLACE, "zeros", "smallest", "sparsity", "magnitude", "expected"],
    "injected": [*RUN, "path", "type", "numel"],
}  # fmt: skip
PAIR = ["relation", *(f"{key}_{end}" for key in RUN for end in "ab")]
OF_PAIRS = {
    "overlap": [
        *PAIR, *PLACE, "dot", "norm_a", "norm_b", "changed_a", "changed_b", "both", "either",
        "cosine", "jaccard", "expected",
    ],
    "interpolation": [*PAIR, "alpha", "split", "metric", "score", "headline"],
}  # fmt: skip


def test_the_script(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its files are read by the report: their columns are a contract."""

    def call(*arguments: str) -> str:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the last call left at 1
        cli.main(["analyse", *arguments])
        return capsys.readouterr().out

    named = [runs("method=full"), runs("method=full seed=1"), runs("method=lora")]
    lines = ("--interpolate", "--points", "2")
    text = call(*map(str, named), "--out", str(tmp_path), "--beside", *lines)
    assert "### builtin_paraphrase, tiny, fraction 0.1, 2 steps: full (2 runs)" in text
    assert "### Between runs" in text
    assert "### Lines between runs" in text
    for record in map(read, named):
        for name, columns in COLUMNS.items():
            path = tmp_path / measure.folder(record) / f"{name}.csv"
            assert list(pd.read_csv(path).columns) == columns, name
    for name, columns in OF_PAIRS.items():
        assert list(pd.read_csv(tmp_path / f"{name}.csv").columns) == columns
    beside = pd.read_csv(named[0] / "distances.csv")
    assert beside["cell"].unique().tolist() == [read(named[0]).cell]
    with pytest.raises(SystemExit, match="finegrid: --interpolate needs two runs"):
        call(str(named[0]), "--interpolate")
