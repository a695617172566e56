"""Tagging: words and their tokens, files, entity scores, other libraries, decoders."""

import json
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_decoder
import torch
from conftest import composed, run_cell, write_lines
from seqeval import metrics
from seqeval.scheme import IOB2
from transformers import AutoTokenizer

import finegrid
from finegrid.config import DataConfig, RunConfig, bind, bind_task
from finegrid.data import builtin, conll
from finegrid.data.batching import TokenizedDataset
from finegrid.data.examples import Examples, read_rows
from finegrid.data.loading import load
from finegrid.data.tokenization import encode
from finegrid.errors import UserError
from finegrid.export import export
from finegrid.inference import predict_file, restore
from finegrid.models import backbone
from finegrid.report.load import rankings
from finegrid.report.load.outcomes import of_run
from finegrid.report.stats import compare, sums
from finegrid.report.stats.scores import evidence
from finegrid.runs.spec import RunSpec
from finegrid.storage import paths
from finegrid.strategies import cached_features
from finegrid.strategies.fused_trainer import run_together
from finegrid.tasks.modules import text_metrics
from finegrid.tasks.tagging import DROPPED, Tagging, entities
from finegrid.training.module import FineTuner

TAGS = ["O", "B-who", "I-who", "B-thing", "I-thing"]
TASK = Tagging("t", ["tokens"], ["entity_f1"], labels=TAGS, kind="tagging")
SETTINGS = ("task=custom", "task.kind=tagging", "task.text=tokens", "task.label=tags",
            "budget=steps", "budget.steps=30", "evaluations=2", "data.batch_size=16",
            "optim.lr=2e-3", "trainer.threads=1")  # fmt: skip


def rows(count: int) -> list[dict[str, Any]]:
    """Sentences of one to three people, some of two words, with a thing."""
    made = []
    for n in range(count):
        words, tags = ["Yesterday", "the"], ["O", "O"]
        words += (["silly"] if n % 2 else []) + [["boss", "judge", "thief"][n % 3]]
        tags += ["B-who", "I-who"] if n % 2 else ["B-who"]
        words += ["mailed", "a", ["gift", "crate", "jacket", "book"][n % 4], "."]
        made.append({"tokens": words, "tags": [*tags, "O", "O", "B-thing", "O"]})
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("rows") / "words.jsonl", rows(120))


@pytest.fixture(scope="module")
def trained(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    more = (f"task.train={file}", "method=full", "model.max_length=7")
    run_cell(directory, *SETTINGS, *more)
    return directory


def score(gold: list[list[str]], ours: list[list[str]], name: str = "f1") -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of = getattr(metrics, f"{name}_score")
        return float(of(gold, ours, mode="strict", scheme=IOB2))


def test_scores_are_those_of_the_stored_tags(trained: Path) -> None:
    """Words that were cut off are tagged O; seqeval finds the same score from the file."""
    record = finegrid.load(trained).record
    table = pq.read_table(trained / "predictions.parquet").to_pydict()
    assert record.test == pytest.approx(score(table["label"], table["prediction"]))
    assert 0.2 < float(record.test or 0) < 0.9, "some things are cut off"
    pairs = zip(table["label"], table["prediction"], table["scores"], strict=True)
    assert all(len(gold) == len(ours) == len(each) for gold, ours, each in pairs)
    assert {ours[-1] for ours in table["prediction"]} == {"O"}
    best = [[TAGS[int(np.argmax(word))] for word in row] for row in table["scores"]]
    names = json.loads(str(record.labels))
    assert names == ["O", "B-thing", "I-thing", "B-who", "I-who"]
    assert [[names[TAGS.index(tag)] for tag in row] for row in best] == table["prediction"]
    assert record.truncated is not None
    assert record.truncated["test"] == len(table["label"])


def test_a_run_tags_words(trained: Path, file: Path, tmp_path: Path) -> None:
    run = finegrid.load(trained)
    made = run.predict([["Yesterday", "the", "judge"], ["the", "thief"]])
    assert [len(tags) for tags in made["prediction"]] == [3, 2]
    assert run.predict(["the thief"])["prediction"][0] == made["prediction"][1]
    out = tmp_path / "out.csv"
    assert predict_file(trained, file, out) == 120
    assert '"[""O"", ' in out.read_text(encoding="utf-8")


def test_an_exported_model_tags_alike(trained: Path, tmp_path: Path) -> None:
    assert "verified" in export(trained, "merged", tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert config["architectures"][0].endswith("ForTokenClassification")
    assert config["id2label"]["3"] == "B-who"


def test_a_word_is_read_at_its_first_token_or_its_last() -> None:
    tokenizer = AutoTokenizer.from_pretrained(builtin.MODEL_DIR)
    words = ("the", "zyzzyva", "judges")
    labels = TASK.unknown_labels([[words]])
    labels[0] = [1, 2, 3]
    for decoder in (False, True):
        tokens = encode([[words]], tokenizer, 64, task=TASK, labels=labels, decoder=decoder)
        ids, tags = tokens.fields["input_ids"], tokens.fields["labels"].tolist()
        pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        assert ids.tolist() == tokenizer(" ".join(words))["input_ids"]
        expected = [-100]
        for tag, piece in zip(labels[0], pieces, strict=True):
            rest = [-100] * (len(piece) - 1)
            expected += [*rest, tag] if decoder else [tag, *rest]
        assert tags == [*expected, -100]
    short = encode([[words]], tokenizer, 3, task=TASK, labels=labels)
    assert (short.fields["labels"].tolist(), short.truncated) == ([-100, 1, -100], 1)


def test_a_word_that_the_tokenizer_drops_keeps_its_place() -> None:
    tokenizer = AutoTokenizer.from_pretrained(builtin.MODEL_DIR)
    words = ("the", "\u200b\ufe0f", "judge", "\ufe0f")
    labels = TASK.unknown_labels([[words]])
    labels[0] = [1, 2, 3, 4]
    tokens = encode([[words]], tokenizer, 64, task=TASK, labels=labels)
    kept = [tag for tag in tokens.fields["labels"].tolist() if tag >= 0]
    assert kept == ([1, 2, 3, 4] if len(kept) == 4 else [1, 2, 3])
    read = tokenizer.convert_ids_to_tokens(tokens.fields["input_ids"].tolist())
    assert read[1:4] == ["the", DROPPED, "judge"]


def test_cut_off_words_come_back_as_outside() -> None:
    outputs = [torch.tensor([[0.0, 3, 0, 0, 0]]), torch.zeros(0, 5)]
    labels = TASK.unknown_labels([[("a", "b", "c"), ("d",)]])
    complete = TASK.complete(outputs, labels)
    assert TASK.written(TASK.predictions(complete)) == [["B-who", "O", "O"], ["O"]]


def test_a_batch_in_chunks_has_the_gradient_of_the_whole(file: Path) -> None:
    """The mean is over words, of which the chunks have different numbers."""
    base = backbone.build(
        RunConfig.of(composed("model=tiny")).model, outputs=5, seed=0, auto_class=TASK.AUTO_CLASS
    )
    base.model.eval()
    tokenizer = AutoTokenizer.from_pretrained(builtin.MODEL_DIR)
    texts = [("the", "judge"), ("the",) * 9, ("a", "thief", "left"), ("gift",)]
    labels = TASK.unknown_labels([texts])
    data = TokenizedDataset(
        Examples((texts,), labels, list(range(4))),
        encode([texts], tokenizer, 64, task=TASK, labels=labels),
        collate=TASK.collate,
    )
    module = FineTuner(base, TASK, RunConfig.of(composed()).optim, seed=0)
    gradients = []
    for size in (None, 1, 3):
        module.zero_grad()
        module.state.micro_batch_size = size
        module.training_step(data.batch(range(4)), 0).backward()
        gradients.append(base.model.classifier.weight.grad.clone())
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-6)


FORMS = {
    "lists.jsonl": '{"tokens": ["the", "judge"], "tags": ["O", "B-who"]}\n'
    '{"tokens": ["a"], "tags": ["O"]}\n',
    "numbers.jsonl": '{"tokens": ["the", "judge"], "tags": [0, 1]}\n'
    '{"tokens": ["a"], "tags": [0]}\n',
    "words.csv": "tokens,tags\nthe judge,O B-who\na,O\n",
    "written.csv": "tokens,tags\n\"['the', 'judge']\",\"['O', 'B-who']\"\n\"['a']\",['O']\n",
    "spaces.conll": "-DOCSTART- -X- O O\n\nthe DT O O\njudge NN O B-who\n\n\na DT O O\n",
    "tabs.conll": "the\tO\njudge\tB-who\n\na\tO\n",
}


@pytest.mark.parametrize(("name", "text"), FORMS.items(), ids=FORMS)
def test_forms_of_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    cfg = composed(*SETTINGS, f"task.train={tmp_path / name}", f"task.labels=[{','.join(TAGS)}]")
    task, tables = load(bind_task(cfg.task), bind(DataConfig, cfg.data, "data"))
    found = read_rows(tables.train, task, "x")
    assert found.texts == ([("the", "judge"), ("a",)],)
    assert found.labels.tolist() == [[0, 1], [0]]


def test_only_tabs_and_spaces_divide_the_words_of_conll() -> None:
    text = "10\xa0000 B-NUM\r\na\u2028b\tO\n\x0cc O\n\nd O\n"
    found = conll.table(Path("x"), text).to_pydict()
    assert found["tokens"] == [["10\xa0000", "a\u2028b", "\x0cc"], ["d"]]


BAD = {
    "IOB1": ("a.conll", "the O\njudge I-who\n", "row 1: word 2 is I-who after O; in IOB2 an"),
    "another type": ("a.conll", "a O\n\nthe B-thing\njudge I-who\n",
                     "row 2: word 2 is I-who after B-thing"),
    "no tag": ("a.conll", "the O\njudge\n", r"a\.conll, row 1: line 2 is 'judge', not a word and"),
    "not BIO": ("a.conll", "the DET\njudge NOUN\n", "row 1: tag DET is neither O nor B-"),
    "no entity": ("a.conll", "the O\n", "holds no entity, only O"),
    "lengths": ("a.csv", "tokens,tags\nthe judge,B-who O O\n",
                "row 1: 2 words in column 'tokens' and 3 tags in column 'tags'"),
    "numbers": ("a.csv", "tokens,tags\nthe judge,0 1\n", r"row 1: tags are numbers; name them"),
    "an empty word": ("a.jsonl", '{"tokens": ["a", " "], "tags": ["B-x", "O"]}',
                      "row 1: word 2 is empty or no text"),
    "no words": ("a.jsonl", '{"tokens": [], "tags": ["B-x"]}',
                 "row 1: column 'tokens' holds no words"),
    "no tags": ("a.jsonl", '{"tokens": ["a"], "tags": ["B-x"]}\n{"tokens": ["b"]}',
                "row 2: tags are missing"),
    "a broken list": ("a.csv", "tokens,tags\n['a'],['B-x']\n[b],['O']\n",
                      "row 2: column 'tokens' holds no readable list"),
    "a list of numpy's": ("a.csv", "tokens,tags\n['a' 'b'],['B-x' 'O']\n",
                          r"row 1: column 'tags' holds no readable list .*; write"),
    "a list that does not end": ("a.csv", "tokens,tags\n['a'],['B-x']\n['b',['O']\n",
                                 "row 2: column 'tokens' holds .* where row 1 holds a list"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "why"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_one_line(name: str, text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=why) as caught:
        run_cell(tmp_path / "run", *SETTINGS, f"task.train={tmp_path / name}")
    assert "\n" not in str(caught.value)


def test_entities_are_those_of_seqeval() -> None:
    """And sums over rows give its scores of any rows."""
    draw = random.Random(0)
    for _ in range(100):
        gold = [[draw.choice(TAGS) for _ in range(draw.randint(1, 8))] for _ in range(3)]
        ours = [[draw.choice(TAGS) for _ in row] for row in gold]
        sets = [
            (set(entities(mine)), set(entities(row))) for mine, row in zip(ours, gold, strict=True)
        ]
        total = np.sum([(len(a & b), len(a), len(b)) for a, b in sets], axis=0).astype(float)
        for name in ("f1", "precision", "recall"):
            found = float(sums.METRICS[f"entity_{name}"].of(total, 3))
            assert found == pytest.approx(score(gold, ours, name))


def test_sums_give_corpus_bleu() -> None:
    draw = random.Random(0)
    for _ in range(50):
        texts = [" ".join(draw.choices("abcdef", k=draw.randint(0, 9))) for _ in range(3)]
        known = [[" ".join(draw.choices("abcdef", k=draw.randint(1, 9)))] for _ in range(3)]
        counts = text_metrics.bleu_counts(texts, known)
        found = float(sums.METRICS["bleu"].of(counts.sum(0), 3))
        assert found == pytest.approx(text_metrics.bleu(counts))


def test_runs_share_passes_and_are_compared(file: Path, tmp_path: Path) -> None:
    """Alike to runs that go alone; their report resamples sentences."""
    settings = [*SETTINGS, f"task.train={file}", "budget.steps=8"]
    specs, methods = [], ("bitfit", "lora")
    for name in methods:
        (tmp_path / "shared" / name).mkdir(parents=True)
        given = [f"method={name}"]
        spec = RunSpec.of(composed(*settings, *given), tmp_path / "shared" / name, given, sweep="s")
        specs.append(spec)
        run_cell(tmp_path / "alone" / name, *settings, *given)
    run_together(specs, most=2)
    for name in methods:
        one, other = (
            pq.read_table(tmp_path / where / name / "predictions.parquet").to_pydict()["scores"]
            for where in ("shared", "alone")
        )
        assert finegrid.load(tmp_path / "shared" / name).record.fused == 2
        for row, same in zip(one, other, strict=True):
            assert np.asarray(row) == pytest.approx(np.asarray(same), abs=1e-3)
    runs = rankings.results([tmp_path / "alone"])
    known = next(iter(evidence(runs).rankings.values()))
    assert {cell.scores.rows for cell in known.values()} == {24}
    assert all(cell.scores.resampled is not None for cell in known.values())
    assert all(cell.constant == 0 for cell in known.values())
    assert compare.cells(runs)["mean"].notna().all()
    one = of_run(runs.runs.to_dict("records")[0])
    assert one is not None
    assert not one.numbered


def test_cached_states_of_all_tokens_change_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*SETTINGS, f"task.train={file}", "method=head", "frozen_dropout=false")
    run_cell(tmp_path / "cached", *settings)
    monkeypatch.setattr(cached_features, "LIMIT", 0)
    run_cell(tmp_path / "passes", *settings)
    one, other = (
        pq.read_table(tmp_path / where / "predictions.parquet").to_pydict()["scores"]
        for where in ("cached", "passes")
    )
    for row, same in zip(one, other, strict=True):
        assert np.asarray(row) == pytest.approx(np.asarray(same), abs=1e-4)


def test_a_decoder_tags_words(file: Path, tmp_path: Path) -> None:
    model = small_decoder.save(tmp_path / "llama")
    more = [f"task.train={file}", f"model.path={model}", "model.max_length=64", "method=full"]
    more.append("trainer.kernels=false")
    record = run_cell(tmp_path / "run", *SETTINGS, *more, "budget.steps=4")
    table = pq.read_table(tmp_path / "run/predictions.parquet").to_pydict()
    assert record.test == pytest.approx(score(table["label"], table["prediction"]))
    run = restore(tmp_path / "run")
    texts: Any = ([("a", "gift"), ("the", "silly", "thief")],)
    together = run.outputs(texts)
    alone = [run.outputs(([row],))[0] for row in texts[0]]
    for one, same in zip(together, alone, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-5)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "outputs", "counts"),
    [
        ("wnut_17", 13, (3394, 1287)),
        ("snips_slots", 72, (13084, 700)),
        ("snips_intent", 7, (13084, 700)),
        ("go_emotions", 28, (43410, 5427)),
    ],
)
def test_published_sets_are_read_whole(name: str, outputs: int, counts: tuple[int, int]) -> None:
    cfg = composed(f"task={name}", f"data.root={os.environ['FINEGRID_DATA_DIR']}")
    if not paths.rows(cfg.data.root, cfg.task).is_dir():
        pytest.skip(f"no folder for {name} below FINEGRID_DATA_DIR")
    task, tables = load(bind_task(cfg.task), bind(DataConfig, cfg.data, "data"))
    found = [read_rows(table, task, name) for table in (tables.train, tables.dev["test"])]
    assert task.outputs == outputs
    assert tuple(map(len, found)) == counts
