"""Whole cells on the builtin world: records, files, equality across methods, predictions."""

import csv
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from conftest import BUILTIN, composed, run_cell
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from sklearn import metrics as sk
from test_data import splits_of

from finegrid.data import builtin
from finegrid.data.batching import TokenizedDataset
from finegrid.data.loading import read_table
from finegrid.errors import Diverged, UserError
from finegrid.inference import predict_file, restore
from finegrid.runs import delta, identity
from finegrid.runs.record import Record, read
from finegrid.tasks.classification import Classification
from finegrid.training import scoring
from finegrid.training.module import FineTuner

# one of each way in which methods act; none draws from the run's random numbers: test_methods
EACH_KIND = ("lora", "prefix", "prompt", "hft", "sparse", "supermask", "diff_pruning", "unipelt")
SHORT = ("data.fraction=0.2", "budget.epochs=1", "evaluations=2")
STEPS = ("budget=steps", "budget.steps=2", "evaluations=1", "data.validation_max=50")


@contextmanager
def altered_model(directory: Path) -> Iterator[dict[str, torch.Tensor]]:
    """A copy of the builtin model in a directory, with the weights as the caller leaves them."""
    shutil.copytree(builtin.MODEL_DIR, directory, dirs_exist_ok=True)
    weights = load_file(directory / "model.safetensors")
    yield weights
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """One BitFit cell."""
    directory = tmp_path_factory.mktemp("cell")
    return directory, run_cell(directory, "method=bitfit", *SHORT)


class TestRecord:
    """What one cell leaves behind."""

    def test_every_field_is_measured(self, cell: tuple[Path, Record]) -> None:
        directory, record = cell
        optional = {"error", "trial", "model_revision", "git_commit", "git_dirty"}
        optional |= {"test_last", "rows_asked", "tuning_runs", "tuning_examples", "forgetting"}
        optional |= {"separator", "threshold", "threshold_chosen"}  # decoders, sets of classes
        optional |= {"chosen", "chosen_by", "search_examples"}  # a method's search
        optional |= {"unlabelled_rows", "estimated_rows", "pseudo_rows"}  # self-training
        optional |= {"leakage", "test_off", "leakage_off"}  # of an attribute
        unset = [f.name for f in fields(record) if getattr(record, f.name) is None]
        assert set(unset) <= optional
        assert record == read(directory)

    def test_values_add_up(self, cell: tuple[Path, Record]) -> None:
        directory, record = cell
        assert record.status == "ok"
        assert record.steps == math.ceil(record.train_rows / 32)
        assert record.epochs == pytest.approx(1)
        rate = record.train_rows / record.train_seconds
        assert record.examples_per_second == pytest.approx(rate)
        assert record.delta_bytes == (directory / delta.FILE).stat().st_size
        assert record.test_overlap == 0
        assert record.setup_seconds > 0
        assert record.eval_seconds > 0
        trained = record.params_delta + record.params_pooler + record.params_head
        assert record.delta_bits_per_trainable == 8 * record.delta_bytes / trained
        assert len(record.cell) == 12
        assert record.peak_memory_bytes > 50e6
        trained = record.params_delta + record.params_pooler + record.params_head
        assert 0 < trained < 0.1 * record.params_total

    def test_rows_are_told_by_number_and_by_hash(self, cell: tuple[Path, Record]) -> None:
        record, splits = cell[1], splits_of(*SHORT)[1]
        every = {
            "train": splits.train,
            "validation": splits.validation,
            "test": splits.test["test"],
        }
        for name, rows in every.items():
            found = (getattr(record, f"{name}_rows"), getattr(record, f"{name}_hash"))
            assert found == (len(rows), rows.digest()), name

    def test_flops_are_near_four_per_weight_and_token(self, cell: tuple[Path, Record]) -> None:
        """Forward and the backward that frozen weights need; attention and the pooler on top."""
        record = cell[1]
        weights = 3 * (4 * 128**2 + 2 * 128 * 256)
        tokens = record.tokens_per_second * record.train_seconds
        assert 4 * weights < record.train_flops / tokens < 4.6 * weights

    def test_mfu_is_training_by_the_machines_rate(self, cell: tuple[Path, Record]) -> None:
        record = cell[1]
        rate = record.train_flops / record.train_seconds
        assert record.mfu == pytest.approx(rate / record.matmul_rate)
        assert 0 < record.mfu <= 1.5

    def test_predictions_give_the_recorded_scores(self, cell: tuple[Path, Record]) -> None:
        directory, record = cell
        rows = pq.read_table(directory / "predictions.parquet").to_pydict()
        assert len(rows["idx"]) == record.test_rows
        accuracy = sk.accuracy_score(rows["label"], rows["prediction"])
        f1 = sk.f1_score(rows["label"], rows["prediction"])
        assert record.test == pytest.approx((accuracy + f1) / 2, abs=1e-6)
        assert record.metrics["test"]["f1"] == pytest.approx(f1, abs=1e-6)

    def test_curve(self, cell: tuple[Path, Record]) -> None:
        directory, record = cell
        lines = list(csv.DictReader((directory / "curve.csv").open(encoding="utf-8")))
        assert [*lines[0]] == ["step", "seconds", "loss", "validation"]
        assert len(lines) == 2
        assert int(lines[-1]["step"]) == record.steps
        best = max(lines, key=lambda line: float(line["validation"]))
        assert int(best["step"]) == record.best_step
        assert float(best["validation"]) == pytest.approx(record.validation, abs=1e-5)

    def test_delta_holds_biases_and_head_only(self, cell: tuple[Path, Record]) -> None:
        directory, record = cell
        restored = restore(directory)
        names = [n for n, p in restored.model.named_parameters() if p.requires_grad]
        assert all(name.endswith(".bias") or name.startswith("classifier.") for name in names)
        assert delta.metadata(directory / delta.FILE) == {
            "format": "finegrid-2", "method": "bitfit", "fingerprint": record.fingerprint,
            "labels": ["not_equivalent", "equivalent"],
        }  # fmt: skip

    def test_nothing_temporary_is_left(self, cell: tuple[Path, Record]) -> None:
        names = {path.name for path in cell[0].iterdir()}
        assert names == {".hydra", "record.json", "delta.safetensors", "predictions.parquet",
                         "curve.csv"}  # fmt: skip

    def test_same_command_same_result(self, cell: tuple[Path, Record], tmp_path: Path) -> None:
        again = run_cell(tmp_path / "a", "method=bitfit", *SHORT)
        assert (again.test, again.validation, again.cell) == (
            cell[1].test, cell[1].validation, cell[1].cell,
        )  # fmt: skip
        ours, theirs = (path / delta.FILE for path in (cell[0], tmp_path / "a"))
        assert ours.read_bytes() == theirs.read_bytes()

    def test_its_cell_is_the_hash_of_its_config(self, cell: tuple[Path, Record]) -> None:
        """What makes another hash: test_identity."""
        plain: Any = OmegaConf.to_container(composed("method=bitfit", *SHORT), resolve=True)
        assert cell[1].cell == identity.cell(plain)

    def test_what_does_not_matter_makes_the_same_cell(
        self, cell: tuple[Path, Record], tmp_path: Path
    ) -> None:
        record = run_cell(tmp_path, "method=bitfit", *SHORT, "logger=csv", "trainer=cpu")
        assert record.cell == cell[1].cell
        assert (tmp_path / "csv/metrics.csv").is_file()
        assert record.test == cell[1].test


class TestPrediction:
    """A finished run predicts what it predicted."""

    def test_a_file_gets_the_runs_own_predictions(
        self, cell: tuple[Path, Record], tmp_path: Path
    ) -> None:
        rows = builtin.load("builtin_paraphrase")["validation"]
        source, target = tmp_path / "rows.csv", tmp_path / "out.csv"
        with source.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["sentence1", "sentence2"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        assert predict_file(cell[0], source, target) == len(rows)
        found = read_table(target).to_pydict()
        own = pq.read_table(cell[0] / "predictions.parquet").to_pydict()
        names = ["not_equivalent", "equivalent"]
        assert found["prediction"] == [names[i] for i in own["prediction"]]
        scores = torch.tensor([list(map(float, found[f"score_{name}"])) for name in names]).T
        assert torch.equal(scores, torch.tensor(own["scores"]))

    @pytest.mark.parametrize(
        "options",
        [
            ("method=hft",),
            ("method=sparse", "method.samples=8"),
            ("method=supermask",),
            ("method=diff_pruning",),
            ("method=prefix", "method.reparametrization=32"),
            ("method=unipelt", "store=bfloat16"),
            ("method=full", "store=bfloat16"),
        ],
        ids=lambda options: options[0].partition("=")[2],
    )
    def test_every_kind_of_delta_gives_the_recorded_predictions(
        self, options: tuple[str, ...], tmp_path: Path
    ) -> None:
        record = run_cell(tmp_path, *STEPS, "seed=3", *options)
        rows = builtin.load("builtin_paraphrase")["validation"]
        texts = ([row["sentence1"] for row in rows], [row["sentence2"] for row in rows])
        own = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
        assert torch.equal(restore(tmp_path).logits(texts), torch.tensor(own["scores"]))
        assert record.delta_bytes == (tmp_path / delta.FILE).stat().st_size
        assert record.delta_bound_bytes <= record.delta_bytes

    def test_a_run_that_keeps_no_delta_differs_in_nothing_else(
        self, cell: tuple[Path, Record], tmp_path: Path
    ) -> None:
        record = run_cell(tmp_path, *read(cell[0]).overrides, "store=none")
        assert not record.stored
        assert cell[1].stored
        assert not (tmp_path / delta.FILE).exists()
        for name in ("cell", "metrics", "delta_bytes", "delta_bound_bytes"):
            assert getattr(record, name) == getattr(cell[1], name), name
        with pytest.raises(UserError, match=r"kept no delta \(store=none\).* store=float32"):
            restore(tmp_path)

    def test_another_backbone_is_refused(self, cell: tuple[Path, Record], tmp_path: Path) -> None:
        with altered_model(tmp_path) as weights:
            weights[min(weights)] += 1
        with pytest.raises(UserError, match="backbone fingerprint"):
            restore(cell[0], model_path=str(tmp_path))

    def test_another_tokenizer_is_refused(self, cell: tuple[Path, Record], tmp_path: Path) -> None:
        with altered_model(tmp_path):
            pass
        assert restore(cell[0], model_path=str(tmp_path)).record == cell[1]
        file = tmp_path / "tokenizer.json"
        told = json.loads(file.read_text(encoding="utf-8"))
        words = sorted(told["model"]["vocab"].items(), key=lambda item: item[1])
        (a, one), (b, other) = words[-2:]
        told["model"]["vocab"] |= {a: other, b: one}
        file.unlink()
        file.write_text(json.dumps(told), encoding="utf-8")
        with pytest.raises(UserError, match="trained with another tokenizer than lies in"):
            restore(cell[0], model_path=str(tmp_path))

    def test_an_unreadable_run_is_one_clear_line(
        self, cell: tuple[Path, Record], tmp_path: Path
    ) -> None:
        for directory, message in ((tmp_path / "none", "no such run"), (tmp_path, "holds no rec")):
            with pytest.raises(UserError, match=message):
                restore(directory)
        (tmp_path / "record.json").write_text("{half", encoding="utf-8")
        with pytest.raises(UserError, match="not a readable record"):
            restore(tmp_path)
        (tmp_path / "record.json").write_text('{"schema": 99}', encoding="utf-8")
        with pytest.raises(UserError, match="schema 99"):
            restore(tmp_path)
        values = json.loads((cell[0] / "record.json").read_text(encoding="utf-8"))
        (tmp_path / "record.json").write_text(json.dumps(values), encoding="utf-8")
        with pytest.raises(UserError, match=r"holds no \.hydra"):
            restore(tmp_path)
        (tmp_path / ".hydra").mkdir()
        config = (cell[0] / ".hydra/config.yaml").read_text(encoding="utf-8")
        (tmp_path / ".hydra/config.yaml").write_text(config, encoding="utf-8")
        (tmp_path / delta.FILE).write_bytes(b"garbage")
        with pytest.raises(UserError, match="not a readable delta"):
            restore(tmp_path)


class Judge:
    """In place of the metrics that a selection sees: verdicts on its evaluations, in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *verdicts: float) -> None:
        self.verdicts = iter(verdicts)
        self.labels: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []
        self.real = Classification.score
        judge = lambda task, logits, labels: self.score(task, logits, labels)  # noqa: E731
        monkeypatch.setattr(Classification, "score", judge)

    def score(
        self, task: Classification, logits: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, float]:
        """The next verdict, on whatever was predicted; after the last one, the true scores."""
        verdict = next(self.verdicts, None)
        if verdict is None:
            return self.real(task, logits, labels)
        self.labels.append(labels)
        self.logits.append(logits)
        return {task.headline: verdict}


@pytest.mark.parametrize(
    ("select", "step", "value"), [("best", 4, -0.1), ("last", 8, -0.2)], ids=["best", "last"]
)
def test_a_run_is_scored_with_the_weights_that_validation_chose(
    select: str, step: int, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first of the best, though none is above 0: file, predictions and scores agree."""
    judge = Judge(monkeypatch, -0.3, -0.1, -0.1, -0.2)
    monkeypatch.setattr(Classification, "degenerate", lambda task, logits: True)
    began = time.perf_counter()
    record = run_cell(tmp_path, "method=layernorm", "data.fraction=0.1", "evaluations=4",
                      "budget=steps", "budget.steps=8", f"select={select}",
                      "data.validation_max=12", "optim.lr=0.01")  # fmt: skip
    passed = time.perf_counter() - began
    assert record.setup_seconds + record.train_seconds + record.eval_seconds <= passed
    restored = restore(tmp_path)
    task, splits = splits_of("data.validation_max=12")
    assert (record.best_step, record.validation) == (4, value)
    assert record.degenerate is True, "what metrics say of the test set"
    for labels in judge.labels:
        assert labels.tolist() == splits.validation.labels.tolist()
    found = [
        torch.allclose(restored.logits(splits.validation.texts), logits, atol=1e-4)
        for logits in judge.logits
    ]
    assert found == [place == step // 2 for place in range(1, 5)]
    own = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    assert own["label"] == splits.test["test"].labels.tolist()
    logits = restored.logits(splits.test["test"].texts)
    assert torch.equal(logits, torch.tensor(own["scores"]))
    assert record.test == task.score(logits, torch.tensor(own["label"]))[task.headline]


@pytest.mark.parametrize("score_last", [False, True])
def test_the_test_set_is_scored_once_unless_more_is_asked_for(
    score_last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def predict(model: torch.nn.Module, rows: TokenizedDataset, **how: Any) -> torch.Tensor:
        passes.append(len(rows))
        return real(model, rows, **how)

    real = scoring.predict
    monkeypatch.setattr(scoring, "predict", predict)
    record = run_cell(tmp_path, "method=layernorm", "select=last", *STEPS,
                      f"score_last={str(score_last).lower()}")  # fmt: skip
    assert passes == [record.test_rows] * (1 + score_last)
    assert record.test_last == (record.test if score_last else None)


def test_a_record_says_how_often_validation_was_read(tmp_path: Path) -> None:
    """All passes that a quarter of the tokens allow, and those that steps left room for."""
    options = ("method=layernorm", "data.validation_max=20", "evaluations=4", "budget=steps")
    many = run_cell(tmp_path / "many", *options, "budget.steps=20")
    few = run_cell(tmp_path / "few", *options, "budget.steps=3", "data.batch_size=128")
    assert (many.evaluations, many.evaluations_planned) == (4, 4)
    assert (few.evaluations, few.evaluations_planned) == (3, 4)


def test_so_many_rows_are_a_fraction_of_all(tmp_path: Path) -> None:
    shared = "data.validation=share"
    record = run_cell(tmp_path, "method=layernorm", "data.rows=100", shared, *STEPS)
    every = splits_of(shared)[1]
    assert (record.train_rows, record.validation_rows, record.rows_asked) == (80, 20, 100)
    assert record.fraction == 100 / (len(every.train) + len(every.validation))
    assert record.validation_from == "share"
    assert restore(tmp_path) is not None, "its config is still known as its own"


def test_last_and_best_are_both_recorded(tmp_path: Path) -> None:
    options = ("method=layernorm", "data.fraction=0.1", "budget.epochs=3", "score_last=true")
    best = run_cell(tmp_path / "best", *options)
    last = run_cell(tmp_path / "last", *options, "select=last")
    assert best.test_last == last.test == last.test_last
    assert best.validation >= last.validation
    assert best.best_step == last.best_step


class Enough(Exception):
    """Ends a run of which the first batches are all that a test looks at."""


def first_batches(method: str, directory: Path) -> list[list[list[int]]]:
    """The token ids of a run's first three batches."""
    batches: list[list[list[int]]] = []

    def step(self: FineTuner, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        batches.append(batch["input_ids"].tolist())
        if len(batches) == 3:
            raise Enough
        return self.loss(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuner, "training_step", step)
        with pytest.raises(Enough):
            run_cell(directory, f"method={method}", "data.fraction=0.1")
    return batches


@pytest.fixture(scope="module")
def batches_of_full(tmp_path_factory: pytest.TempPathFactory) -> list[list[list[int]]]:
    """What full fine-tuning sees first."""
    return first_batches("full", tmp_path_factory.mktemp("full"))


@pytest.mark.parametrize("method", EACH_KIND)
def test_batch_order_is_the_same_for_every_method(
    method: str, tmp_path: Path, batches_of_full: list[list[list[int]]]
) -> None:
    assert first_batches(method, tmp_path) == batches_of_full


@pytest.mark.parametrize("task", BUILTIN)
def test_random_weights_are_a_control(task: str, tmp_path: Path) -> None:
    record = run_cell(tmp_path, f"task={task}", *STEPS, "model.pretrained=false", "method=full")
    assert record.pretrained is False
    assert record.status == "ok"


def test_custom_files_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"the {'dog' if i % 2 else 'cat'} sees number {i},{i % 2}" for i in range(80)]
    path.write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    record = run_cell(
        tmp_path / "run", "task=custom", f"task.train={path}", "task.metrics=[accuracy,matthews]",
        "budget.epochs=1", "method=layernorm",
    )  # fmt: skip
    assert record.metric == "mean"
    assert record.test_rows == 16
    assert predict_file(tmp_path / "run", path, tmp_path / "out.csv") == 80


def test_bf16_autocast_keeps_fp32_weights_and_clips(tmp_path: Path) -> None:
    options = ("method=houlsby", *STEPS, "trainer.precision=bf16-mixed")
    record = run_cell(tmp_path, *options)
    assert (record.status, record.precision) == ("ok", "bf16-mixed")
    stored = load_file(tmp_path / delta.FILE)
    assert {value.dtype for value in stored.values()} == {torch.float32}


def test_a_diverged_run_keeps_its_record(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"lower optim\.lr"):
        run_cell(tmp_path, "method=full", *SHORT, "optim.lr=1e30", "optim.clip=0")
    record = read(tmp_path)
    assert record.status == "diverged"
    assert "lower optim.lr" in record.error
    assert record.test is None
    assert not (tmp_path / delta.FILE).exists()
    with pytest.raises(UserError, match="status is diverged"):
        restore(tmp_path)


def test_a_failed_run_keeps_its_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        run_cell(tmp_path, "task=custom", "task.train=nowhere.csv")
    record = read(tmp_path)
    assert record.status == "failed"
    assert "no such file" in record.error


def test_a_length_beyond_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.max_length=65 exceeds the 64 tokens"):
        run_cell(tmp_path, "model.max_length=65")


def test_a_missing_model_names_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run_cell(tmp_path, "model=bert-base")
    for part in ("google-bert/bert-base-uncased", "hub", "FINEGRID_MODEL_DIR", "model=tiny"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_local_directory_of_a_known_architecture(tmp_path: Path) -> None:
    """Any RoBERTa on disk works through model.path, with a tokenizer beside it."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    tokenizer = AutoTokenizer.from_pretrained(builtin.MODEL_DIR)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=80, type_vocab_size=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    record = run_cell(tmp_path / "run", "model=roberta-base", f"model.path={tmp_path / 'mine'}",
                      *STEPS, "method=houlsby", "model.max_length=60")  # fmt: skip
    assert record.status == "ok"
    assert record.params_delta == 2 * 2 * (32 * 2 + 2 + 2 * 32 + 32)


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    with altered_model(tmp_path) as weights:
        weights.pop(next(name for name in weights if "query" in name))
    with pytest.raises(UserError, match="lacks 1 of the model's tensors"):
        run_cell(tmp_path / "run", f"model.path={tmp_path}")


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    record = run_cell(tmp_path, "method=houlsby", *SHORT, "trainer=gpu")
    assert (record.status, record.precision) == ("ok", "bf16-mixed")
    assert "cpu" not in record.device
    assert 0 < record.peak_memory_bytes < 2e9


@pytest.mark.realdata
@pytest.mark.slow
def test_real_encoder_on_real_data(tmp_path: Path) -> None:
    record = run_cell(
        tmp_path, "method=bitfit", "task=mrpc", "model=minilm", "data.fraction=0.02",
        "budget=steps", "budget.steps=2", "evaluations=1", "+model.config.num_hidden_layers=2",
    )  # fmt: skip
    assert record.status == "ok"
    assert record.test_rows == 408


def test_a_seed_may_train_on_rows_of_its_own(tmp_path: Path) -> None:
    own, fixed = "data.subset_seed=${seed}", "data.subset_seed=0"
    short = ("experiment=smoke", "model=tiny", "method=head", "seed=1", "data.fraction=0.1")
    records = [run_cell(tmp_path / str(n), *short, given) for n, given in enumerate((own, fixed))]
    assert [record.subset_seed for record in records] == [1, 0]
    assert own in records[0].overrides
    assert records[0].train_hash != records[1].train_hash
    assert records[0].test_hash == records[1].test_hash


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "budget"),
    [
        pytest.param(
            "builtin_paraphrase",
            ("budget.epochs=4", "data.batch_size=16"),
            marks=pytest.mark.nightly,
        ),
        pytest.param("builtin_acceptability", ("budget.epochs=2",), marks=pytest.mark.nightly),
        ("builtin_similarity", ("budget.epochs=1",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("all_test_rows")
def test_pretraining_matters_on_the_builtin_world(
    task: str, budget: tuple[str, ...], tmp_path: Path
) -> None:
    """The builtin model behaves like the real thing: what it learned before is what helps."""
    options = (f"task={task}", *budget, "evaluations=1", "data.validation_max=50")
    full = run_cell(tmp_path / "full", *options, "method=full")
    random = run_cell(
        tmp_path / "random", *options, "method=full", "model.pretrained=false", "optim.lr=1e-3"
    )
    head = run_cell(tmp_path / "head", *options, "method=head")
    assert full.test > random.test + 0.10
    assert full.test > head.test + 0.02
    assert full.test < 0.95
