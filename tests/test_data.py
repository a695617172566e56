"""Splits, fractions, batches and bad input files."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import BUILTIN, composed

from finegrid.config import DataConfig, RunConfig, bind, bind_task
from finegrid.data import batching
from finegrid.data.batching import BucketSampler, TokenizedDataset, sorted_batches
from finegrid.data.examples import Examples
from finegrid.data.loading import load, read_table
from finegrid.data.splits import Splits, share_order, split, stratified_order, used_rows
from finegrid.data.tokenization import Tokens, encode
from finegrid.errors import UserError
from finegrid.models import backbone
from finegrid.storage import paths
from finegrid.tasks.regression import Regression
from finegrid.tasks.task import Task


def splits_of(*overrides: str) -> tuple[Task, Splits]:
    """Load and split as a run would."""
    cfg = composed(*overrides)
    config = RunConfig.of(cfg)
    task, tables = load(bind_task(cfg.task), config.data)
    return task, split(tables, task, config.data)


@pytest.mark.parametrize("task", BUILTIN)
def test_fractions_are_nested_and_share_validation(task: str) -> None:
    found = [splits_of(f"task={task}", f"data.fraction={f}")[1] for f in (0.1, 0.3, 1.0)]
    indices = [set(part.train.idx) for part in found]
    assert indices[0] < indices[1] < indices[2]
    assert len(indices[0]) == round(0.1 * len(indices[2]))
    assert len({part.validation.digest() for part in found}) == 1
    assert not indices[2] & set(found[0].validation.idx)


@pytest.mark.parametrize("method", ["full", "bitfit", "houlsby"])
def test_rows_are_the_same_for_every_method_and_seed(method: str) -> None:
    expected = splits_of("data.fraction=0.3", "method=head")[1]
    found = splits_of("data.fraction=0.3", f"method={method}", "seed=5")[1]
    assert found.train.digest() == expected.train.digest()
    assert found.validation.digest() == expected.validation.digest()


def test_subset_and_split_seeds_stand_apart() -> None:
    base = splits_of("data.fraction=0.3")[1]
    subset = splits_of("data.fraction=0.3", "data.subset_seed=1")[1]
    assert subset.validation.digest() == base.validation.digest()
    assert subset.train.digest() != base.train.digest()
    other = splits_of("data.fraction=0.3", "data.split_seed=1")[1]
    assert other.validation.digest() != base.validation.digest()


def test_validation_is_a_share_of_the_rows_and_at_most_so_many() -> None:
    train, validation = (len(part) for part in (splits_of()[1].train, splits_of()[1].validation))
    rows = train + validation
    for fraction, most, expected in ((0.1, rows, round(0.1 * rows)), (0.1, 7, 7), (1e-6, 7, 1)):
        found = splits_of(f"data.validation_fraction={fraction}", f"data.validation_max={most}")[1]
        assert (len(found.validation), len(found.train)) == (expected, rows - expected)


GRADED = Regression(name="t", text=["a"], metrics=["pearson"])


def rows_with(labels: list[float]) -> Examples:
    """Rows with these labels and numbered texts."""
    return Examples(
        ([f"text {i}" for i in range(len(labels))],), np.asarray(labels), [*range(len(labels))]
    )


@pytest.mark.parametrize(("fraction", "size"), [(0.27, 3), (0.24, 2), (0.01, 1), (1.0, 10)])
def test_a_fraction_is_rounded_and_keeps_the_files_order(fraction: float, size: int) -> None:
    config: Any = SimpleNamespace(fraction=fraction, rows=None, subset_seed=0)
    assert len(used_rows(rows_with([*range(10)]), GRADED, config)) == size
    train = splits_of(f"data.fraction={fraction}")[1].train
    assert train.idx == sorted(train.idx)


def test_a_digest_tells_labels_texts_and_order_apart() -> None:
    def digest(*rows: tuple[str, str, int]) -> str:
        first, second, labels = (list(column) for column in zip(*rows, strict=True))
        return Examples((first, second), np.asarray(labels), [*range(len(rows))]).digest()

    one, other = ("ab", "c", 0), ("a", "bc", 0)
    found = [digest(one), digest(other), digest(("ab", "c", 1)), digest(one, other),
             digest(other, one)]  # fmt: skip
    assert len(set(found)) == 5
    assert digest(one) == found[0]


def test_every_prefix_keeps_the_classes() -> None:
    labels = [0] * 700 + [1] * 300
    order = stratified_order(np.asarray(labels), 0)
    assert sorted(order) == list(range(1000))
    for size in (10, 33, 100, 517):
        share = np.asarray(labels)[order[:size]].mean()
        assert abs(share - 0.3) <= 1 / size


def test_a_rare_class_comes_in_the_middle_of_its_share() -> None:
    """The k-th of n rows at (k + 1/2) / n: a single row of a class is no row of a small prefix."""
    order = stratified_order(np.asarray([0] * 99 + [1]), 0)
    assert 45 <= order.tolist().index(99) <= 54


def test_regression_is_stratified_by_quantile() -> None:
    labels = np.random.default_rng(0).exponential(size=1000)
    order = stratified_order(GRADED.strata(labels), 0)
    deciles = np.searchsorted(np.quantile(labels, np.linspace(0.1, 0.9, 9)), labels[order[:100]])
    assert np.bincount(deciles, minlength=10).tolist() == pytest.approx([10] * 10, abs=1)


def test_dev_protocol_selects_on_dev() -> None:
    found = splits_of("data.protocol=dev")[1]
    assert found.validation.digest() == found.test["test"].digest()
    assert len(found.train) > len(splits_of()[1].train)


def test_sampler_is_seeded_complete_and_bucketed() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, size=1003)
    first, again, other = (
        list(BucketSampler(lengths, batch_size=8, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(i for batch in first for i in batch) == list(range(1003))
    widest = np.mean([lengths[batch].max() for batch in first])
    shuffled = np.random.default_rng(1).permutation(1003)[:1000].reshape(-1, 8)
    assert widest < np.mean(lengths[shuffled].max(1)) * 0.75
    sampler = BucketSampler(lengths, batch_size=8, seed=1)
    assert list(sampler) != list(sampler), "every epoch has an order of its own"


def test_batches_come_from_pools_and_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.arange(64)

    def batches(pool: int) -> list[list[int]]:
        monkeypatch.setattr(batching, "POOL", pool)
        return list(BucketSampler(lengths, batch_size=8, seed=1))

    pooled, alone = batches(50), batches(1)
    assert [max(batch) - min(batch) for batch in pooled] == [7] * 8
    assert np.mean([max(batch) - min(batch) for batch in alone]) > 30
    starts = [min(batch) for batch in pooled]
    assert starts not in (sorted(starts), sorted(starts, reverse=True))


@pytest.mark.parametrize(
    ("rows", "tokens", "expected"),
    [
        (4, 100, [[2, 0], [4, 1, 3, 5]]),  # as many as 100 tokens take
        (2, 1000, [[2, 0], [4, 1], [3, 5]]),
        (9, 20, [[2], [0], [4, 1], [3, 5]]),  # a single row may have more
    ],
)
def test_evaluation_goes_from_long_to_short_rows(
    rows: int, tokens: int, expected: list[list[int]]
) -> None:
    lengths = np.asarray([30, 9, 50, 5, 10, 1])
    encoded: Any = SimpleNamespace(lengths=lengths, batch=lambda index: [lengths[i] for i in index])
    found = list(sorted_batches(encoded, rows, tokens=tokens))
    assert [index for index, _ in found] == expected
    assert all(batch == [lengths[i] for i in index] for index, batch in found)


def test_batches_are_padded_to_their_own_longest_row() -> None:
    tokenizer = backbone.tokenizer(RunConfig.of(composed()).model)
    texts = (["a man sees the dog .", "the dog ."], ["the dog sees a man .", "a man ."])
    encoded = TokenizedDataset(
        Examples(texts, np.asarray([0, 1]), [0, 1]), encode(texts, tokenizer, 64)
    )
    batch = encoded.batch([1, 0])
    expected = tokenizer(
        *[[column[1], column[0]] for column in texts], padding=True, return_tensors="pt"
    )
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch[name].tolist() == expected[name].tolist(), name
    assert batch["labels"].tolist() == [1, 0]
    assert batch["real_tokens"] == int(expected["attention_mask"].sum())


def test_batches_are_padded_with_the_tokenizers_own_id() -> None:
    fields = {"input_ids": np.asarray([5, 6, 7], np.int32)}
    tokens = Tokens(fields, np.asarray([0, 1, 3]), padding=1)
    encoded = TokenizedDataset(Examples((["a", "b c"],), np.asarray([0, 1]), [0, 1]), tokens)
    batch = encoded.batch([0, 1])
    assert batch["input_ids"].tolist() == [[5, 1], [6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]


def glue_root(tmp_path: Path, **columns: list[object]) -> str:
    """A local root with an MRPC of these columns in every split."""
    (tmp_path / "mrpc").mkdir()
    for name in ("train", "validation"):
        pq.write_table(pa.table(columns), tmp_path / "mrpc" / f"{name}-00000-of-00001.parquet")
    return f"data.root={tmp_path}"


def test_local_root(tmp_path: Path) -> None:
    texts = [f"sentence {i}" for i in range(40)]
    root = glue_root(tmp_path, sentence1=texts, sentence2=texts, label=[0, 1] * 20)
    task, found = splits_of("task=mrpc", root)
    assert task.labels == ["not_equivalent", "equivalent"]
    assert (len(found.train), len(found.validation), len(found.test["test"])) == (36, 4, 40)
    assert found.overlap == 36, "test rows that occur in train are counted"
    half = splits_of("task=mrpc", root, "data.fraction=0.5")[1]
    assert (len(half.train), half.overlap) == (18, 18), "of the train rows that are used"


def test_a_test_row_overlaps_if_all_its_texts_do(tmp_path: Path) -> None:
    texts = [f"sentence {i}" for i in range(40)]
    root = glue_root(tmp_path, sentence1=texts, sentence2=texts, label=[0, 1] * 20)
    others = pa.table({"sentence1": texts, "sentence2": texts[::-1], "label": [0, 1] * 20})
    pq.write_table(others, tmp_path / "mrpc" / "validation-00000-of-00001.parquet")
    assert splits_of("task=mrpc", root)[1].overlap == 0


def test_mnli_has_two_test_sets(tmp_path: Path) -> None:
    (tmp_path / "mnli").mkdir()
    table = pa.table({"premise": ["a b"] * 60, "hypothesis": ["c"] * 60, "label": [0, 1, 2] * 20})
    for name in ("train", "validation_matched", "validation_mismatched"):
        pq.write_table(table, tmp_path / "mnli" / f"{name}-00000-of-00001.parquet")
    assert [*splits_of("task=mnli", f"data.root={tmp_path}")[1].test] == ["test", "test_mismatched"]


def test_hidden_labels_are_refused(tmp_path: Path) -> None:
    texts = ["x"] * 10
    root = glue_root(tmp_path, sentence1=texts, sentence2=texts, label=[-1] * 10)
    with pytest.raises(UserError, match=r"hide their labels \(-1\)"):
        splits_of("task=mrpc", root)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    root = glue_root(tmp_path, sentence1=["x"], sentence2=["x"], label=[0])
    (tmp_path / "mrpc" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="no file of the split 'train'"):
        splits_of("task=mrpc", root)


def test_missing_data_offline_names_what_was_tried_and_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        splits_of("task=cola", f"data.root={tmp_path}")
    message = str(caught.value)
    for part in (
        str(tmp_path / "cola"),
        "the hub and its cache",
        "go online",
        "FINEGRID_DATA_DIR",
        "builtin",
    ):
        assert part in message
    assert "\n" not in message


def test_the_hub_is_asked_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    texts = [f"sentence {i}" for i in range(40)]
    rows = {"question": texts, "sentence": texts, "label": [0, 1] * 20}
    asked = []

    def load_dataset(path: str, name: str) -> datasets.DatasetDict:
        asked.append((path, name))
        part = datasets.Dataset.from_dict(rows)
        return datasets.DatasetDict(train=part, validation=part)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = splits_of("task=qnli", f"data.root={tmp_path}")[1]
    assert asked == [("nyu-mll/glue", "qnli")]
    assert (len(found.train), found.source) == (36, "hub nyu-mll/glue/qnli")


HIDDEN = {"label": [-1] * 40}


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        ({"train": {}, "test": {}, "validation": {}}, 40),
        ({"train": {}, "test": HIDDEN, "validation": {}}, 40),
        ({"train": {}, "test": HIDDEN}, 8),  # a fifth of train
    ],
)
def test_any_data_set_of_the_hub(
    parts: dict[str, Any], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Splits are found, classes bear the data set's names, and the commit is recorded."""
    asked = hub_holds(tmp_path, parts, monkeypatch)
    task, found = splits_of(*AG_NEWS, f"task.revision={COMMIT}")
    assert (task.name, task.labels) == ("ag_news", ["b", "a"])
    assert asked == [("fancyzhx/ag_news", COMMIT)]
    assert found.source == f"hub fancyzhx/ag_news/@{COMMIT}"
    assert len(found.test["test"]) == size


def test_another_commit_than_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, `datasets` takes what its cache has and leaves the revision out of account."""
    hub_holds(tmp_path, {"train": {}}, monkeypatch)
    with pytest.raises(UserError, match=f"at commit {COMMIT}, not at task.revision=ffff") as caught:
        splits_of(*AG_NEWS, f"task.revision={'f' * 40}")
    assert "\n" not in str(caught.value)
    _, found = splits_of(*AG_NEWS, "task.revision=main")
    assert found.source.endswith(f"@{COMMIT}")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("task.subset=none", "BuilderConfig 'none' not found. Available: \\['default'\\]"),
        ("task.text=body", "no column 'body'; it has text, label"),
        ("task.dev=validation", "no split 'validation'; it has train, test"),
    ],
)
def test_what_a_data_set_of_the_hub_lacks_is_said_in_a_line(
    more: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_holds(tmp_path, {"train": {}, "test": {}}, monkeypatch)
    with pytest.raises(UserError, match=says) as caught:
        splits_of(*AG_NEWS, more)
    assert "\n" not in str(caught.value)


AG_NEWS = ("task=hub", "task.path=fancyzhx/ag_news", "data.root=null")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = """---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': b
          '1': a
---
"""


def hub_holds(
    folder: Path, parts: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, str | None]]:
    """Let `datasets` find a repository's files in a folder, at a commit; what it was asked for."""
    import datasets

    repository = folder / "repository"
    (repository / "data").mkdir(parents=True)
    (repository / "README.md").write_text(CARD, encoding="utf-8")
    rows = {"text": [f"sentence {i}" for i in range(40)], "label": [0, 1] * 20}
    for name, other in parts.items():
        file = repository / "data" / f"{name}-00000-of-00001.parquet"
        pq.write_table(pa.table(rows | other), file)
    plain, asked = datasets.load.dataset_module_factory, []

    def factory(path: str, *, revision: str | None = None, **named: Any) -> Any:
        asked.append((path, revision))
        return dataclasses.replace(plain(str(repository), **named), hash=COMMIT)

    monkeypatch.setattr(datasets.load, "dataset_module_factory", factory)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    return asked


def test_a_data_set_of_the_hub_must_be_named() -> None:
    with pytest.raises(UserError, match=r"task=hub needs task\.path=DATASET"):
        splits_of("task=hub", "data.root=null")


def test_folders_lie_below_one_of_several_roots(tmp_path: Path) -> None:
    for place in ("one/glue/mrpc", "two/rte"):
        (tmp_path / place).mkdir(parents=True)
    root = f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}"
    assert paths.rows(root, {"name": "mrpc"}) == tmp_path / "one/glue/mrpc"
    assert paths.rows(root, {"name": "x", "subset": "rte"}) == tmp_path / "two/rte"
    assert paths.rows(root, {"name": "cola"}) == tmp_path / "one/cola"


def test_a_fraction_that_leaves_a_class_empty(tmp_path: Path) -> None:
    texts = [f"t {i}" for i in range(200)]
    root = glue_root(tmp_path, sentence1=texts, sentence2=texts, label=[1] + [0] * 99 + [0] * 100)
    with pytest.raises(UserError, match=r"none of class equivalent; raise the fraction"):
        splits_of("task=mrpc", root, "data.fraction=0.01")


SHARED = "data.validation=share"


@pytest.mark.parametrize(
    ("rows", "validation"), [(500, 100), (100, 20), (41, 8), (30, 8), (16, 8), (10, 5), (5, 2)]
)
def test_validation_comes_out_of_the_rows_that_are_used(rows: int, validation: int) -> None:
    """A fifth of them, at least eight, at most half: 100 labels are 100 labels."""
    found = splits_of(SHARED, f"data.rows={rows}")[1]
    assert (len(found.train), len(found.validation)) == (rows - validation, validation)
    assert not {*found.train.idx} & {*found.validation.idx}
    for part in (found.train, found.validation):
        assert part.idx == sorted(part.idx)
    if rows >= 100:
        means = [part.labels.mean() for part in (found.train, found.validation)]
        assert means[0] == pytest.approx(means[1], abs=0.06)


def test_shares_are_nested_and_move_with_both_seeds() -> None:
    few, many = (splits_of(SHARED, f"data.rows={n}")[1] for n in (100, 400))
    assert len({*few.validation.idx} - {*many.validation.idx}) <= 1, "but for rounding"
    assert len({*few.train.idx} - {*many.train.idx}) <= 1
    split, subset = (splits_of(SHARED, "data.rows=100", f"data.{s}_seed=1")[1]
                     for s in ("split", "subset"))  # fmt: skip
    used = {*few.train.idx, *few.validation.idx}
    assert {*split.train.idx, *split.validation.idx} == used
    assert split.validation.idx != few.validation.idx
    assert {*subset.train.idx, *subset.validation.idx} != used


def test_of_each_class_every_fifth_row_goes_to_validation_and_the_first_stays() -> None:
    strata = np.asarray([0, 1] * 50 + [2])
    order = share_order(strata, 0)
    assert np.bincount(strata[order[:20]]).tolist() == [10, 10]
    assert set(share_order(strata[:50], 0)[:10]) <= set(order[:20].tolist())
    assert {0, 1, 100} <= set(order[-21:].tolist()), "a class's first row goes last"


def test_too_few_rows_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.rows=99999 asks for more than the \d+ rows"):
        splits_of("data.rows=99999")
    with pytest.raises(UserError, match=r"keeps 1 train row of .* needs 2 to divide"):
        splits_of("task=builtin_similarity", SHARED, "data.rows=1")
    texts = [f"t {i}" for i in range(100)]
    root = glue_root(tmp_path, sentence1=texts, sentence2=texts, label=[1] * 50 + [0] * 50)
    with pytest.raises(UserError, match=r"data.rows=1 keeps 1 of \d+ .* none of class .*; raise"):
        splits_of("task=mrpc", root, "data.rows=1")


def test_the_dev_protocol_selects_on_the_test_rows_whatever_validation_says() -> None:
    found = splits_of(SHARED, "data.protocol=dev")[1]
    assert found.validation.digest() == found.test["test"].digest()


CUSTOM = ("task=custom", "task.text=[text]", "task.label=label")


def write_csv(tmp_path: Path, content: str) -> tuple[str, ...]:
    """Overrides for a custom task over a CSV file of this content."""
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="utf-8")
    return (*CUSTOM, f"task.train={path}")


GOOD = "".join(f"text number {i},{'yes' if i % 3 else 'no'}\n" for i in range(60))


def test_custom_csv(tmp_path: Path) -> None:
    task, found = splits_of(*write_csv(tmp_path, "text,label\n" + GOOD))
    assert task.labels == ["no", "yes"]
    assert len(found.test["test"]) == 12, "a fifth of the file is set aside"
    assert len(found.train) + len(found.validation) == 48
    again = splits_of(*write_csv(tmp_path, "text,label\n" + GOOD))[1]
    assert again.test["test"].digest() == found.test["test"].digest()


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "tsv"])
def test_custom_formats(tmp_path: Path, ending: str) -> None:
    rows = [{"text": f"row {i}", "label": i % 5 / 2} for i in range(50)]
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        lines = "".join(f"{row['text']}\t{row['label']}\n" for row in rows)
        path.write_text("text\tlabel\n" + lines, encoding="utf-8")
    task, found = splits_of(
        *CUSTOM,
        f"task.train={path}",
        f"task.test={path}",
        "task.kind=regression",
        "task.metrics=[pearson,spearman]",
    )
    assert task.outputs == 1
    assert len(found.test["test"]) == 50


BAD_FILES = {
    "no such column": ("words,label\n" + GOOD, "no column 'text'; it has words, label"),
    "no label column": ("text,class\n" + GOOD, "no column 'label'; it has text, class"),
    "empty text": ("text,label\nhello,no\n,yes\n" + GOOD, "row 2: column 'text' is empty"),
    "missing label": ("text,label\nhello,\n" + GOOD, "row 1: label is missing"),
    "graded label": ("text,label\nhello,0.5\nworld,1\n", "use task.kind=regression"),
    "one class": ("text,label\nhello,no\nworld,no\n", "holds one class only"),
    "ragged": ("text,label\nhello,no,extra\n", "not readable as csv"),
    "no rows": ("text,label\n", "one class only|no rows"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_csv(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        splits_of(*write_csv(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_quoted_line_breaks_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"two\nlines",no\n', encoding="utf-8")
    table = read_table(path)
    assert table.to_pylist() == [{"text": "two\nlines", "label": "no"}]


def test_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few rows to carve"):
        splits_of(
            *write_csv(tmp_path, "text,label\na,0.5\nb,1.5\n"),
            "task.kind=regression",
            "task.metrics=[pearson]",
        )


def test_words_for_graded_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="label 'no' in column 'label' must be a number"):
        splits_of(
            *write_csv(tmp_path, "text,label\n" + GOOD),
            "task.kind=regression",
            "task.metrics=[pearson]",
        )


def test_no_such_file_or_ending(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        splits_of(*CUSTOM, "task.train=nowhere.csv")
    (tmp_path / "rows.xls").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="unknown ending"):
        splits_of(*CUSTOM, f"task.train={tmp_path / 'rows.xls'}")
    with pytest.raises(UserError, match=r"needs task\.train"):
        splits_of(*CUSTOM)


def test_metric_must_fit_the_labels() -> None:
    with pytest.raises(UserError, match=r"do not fit task\.kind=classification"):
        splits_of("task=builtin_paraphrase", "task.metrics=[pearson]")
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        splits_of("task=builtin_paraphrase", "task.metrics=[acuracy]")


def test_every_glue_task_has_its_metrics() -> None:
    expected = {
        "cola": ["matthews"], "sst2": ["accuracy"], "mrpc": ["accuracy", "f1"],
        "stsb": ["pearson", "spearman"], "qqp": ["accuracy", "f1"], "mnli": ["accuracy"],
        "qnli": ["accuracy"], "rte": ["accuracy"], "wnli": ["accuracy"],
    }  # fmt: skip
    for name, metrics in expected.items():
        task = bind_task(composed(f"task={name}").task)
        assert list(task.metrics) == metrics
        assert task.path == "nyu-mll/glue"
        assert task.subset == name


def test_data_config_rejects_what_makes_no_sense() -> None:
    for override, message in (
        ("data.fraction=0", "must lie in"),
        ("data.fraction=1.5", "must lie in"),
        ("data.protocol=devv", "did you mean 'dev'"),
        ("data.batch_size=0", "at least 1"),
        ("data.validation=shared", "did you mean 'share'"),
        ("data.rows=-1", "at least 0"),
    ):
        with pytest.raises(UserError, match=message):
            bind(DataConfig, composed(override).data, "data")
    with pytest.raises(UserError, match="both say how many rows"):
        bind(DataConfig, composed("data.rows=9", "data.fraction=0.5").data, "data")


@pytest.mark.realdata
@pytest.mark.parametrize(("task", "rows"), [("mrpc", 3668), ("cola", 8551), ("stsb", 5749)])
def test_real_glue(task: str, rows: int) -> None:
    found = splits_of(f"task={task}")[1]
    assert len(found.train) + len(found.validation) == rows
    assert len(found.validation) == min(1000, round(rows / 10))


def test_a_file_of_options_need_not_say_much(tmp_path: Path) -> None:
    """A hub task without a subset lies in a folder of its name; a model has the usual settings."""
    for group, name, more in (("task", "polls", "text: text"), ("model", "mine", "")):
        (tmp_path / group).mkdir()
        text = f"name: {name}\npath: org/{name}\n{more}"
        (tmp_path / group / f"{name}.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "rows/polls").mkdir(parents=True)
    for name in ("train", "validation"):
        (tmp_path / f"rows/polls/{name}.csv").write_text("text,label\n" + GOOD, encoding="utf-8")
    chosen = (f"hydra.searchpath=['file://{tmp_path}']", "task=polls", "model=mine")
    task, found = splits_of(*chosen, f"data.source={tmp_path}/rows")
    assert (task.labels, task.metrics, len(found.test["test"])) == (["no", "yes"], ["accuracy"], 60)
    model = RunConfig.of(composed(*chosen)).model
    assert (model.revision, model.max_length, model.head_lr) == ("main", 128, 1e-3)
    assert (model.architecture, model.parameters) == ({}, None)
