"""Generation: loss on the target alone, greedy texts whatever the batch, metrics by unit."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_decoder
import torch
from conftest import composed, run_cell, tuning_method
from sacrebleu.metrics.bleu import BLEU
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

import finegrid
from finegrid.config import DataConfig, RunConfig, bind, bind_task
from finegrid.data.batching import TokenizedDataset
from finegrid.data.examples import Examples, read_rows
from finegrid.data.loading import RawSplits, load
from finegrid.data.splits import split
from finegrid.data.tokenization import encode
from finegrid.errors import UserError
from finegrid.export import export
from finegrid.models import backbone, surgery
from finegrid.report.load import rankings
from finegrid.report.stats.scores import evidence
from finegrid.report.stats.sums import METRICS
from finegrid.storage import paths
from finegrid.tasks.generation import Generation
from finegrid.tasks.modules import language_model, slots, text_metrics
from finegrid.training.module import predict

TASK = Generation("t", ["source"], ["exact_match", "bleu", "rouge_l"], label="target",
                  template="Meaning: {text}\nText:", max_new_tokens=5)  # fmt: skip
SOURCES = ["name[The Mill]", "name[The Mill], food[English], area[riverside]", "food[fish]", "x"]
SETTINGS = ("task=custom", "task.kind=generation", "task.text=source", "task.label=target",
            "task.max_new_tokens=4", "budget=steps", "budget.steps=2", "evaluations=1",
            "data.batch_size=4", "data.eval_batch_size=8", "model.max_length=64",
            "trainer.threads=1")  # fmt: skip
TEXTS = ["the cat eats a fish", "a bird", "the mill near the river", "so it is", ""]
REFERENCES = [
    ("the cat eats the fish", "a cat eats fish now"),
    ("a bird",),
    ("the old mill by the river", "the mill near a river", "the mill"),
    ("so it was",),
    ("one more text",),
]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_decoder.save(tmp_path_factory.mktemp("decoder"))


def objects(values: Any) -> np.ndarray[Any, Any]:
    made = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        made[row] = value
    return made


def dataset(labels: Any, *, train: bool) -> TokenizedDataset:
    reader = small_decoder.tokenizer()
    tokens = encode([SOURCES], reader, 64, task=TASK, labels=labels, decoder=True, train=train)
    rows = Examples((SOURCES,), labels, list(range(len(SOURCES))))
    return TokenizedDataset(rows, tokens, collate=TASK.collate, tokenizer=lambda: reader)


def test_the_loss_is_that_of_the_targets_and_the_end(decoder: Path) -> None:
    model, reader = LlamaForCausalLM.from_pretrained(decoder), small_decoder.tokenizer()
    batch = dataset(objects(["a", "the river mill", "a fish", "the"]), train=True).batch(range(4))
    loss = TASK.loss(TASK.logits(model, batch, forward=None), batch["labels"])  # type: ignore[arg-type]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    torch.testing.assert_close(loss, model(**inputs).loss)
    targets = [reader.decode(row[row != -100]) for row in batch["labels"]]
    assert targets == [f" {x}<end>" for x in ("a", "the river mill", "a fish", "the")]


def test_a_text_is_the_same_alone_and_in_a_batch(decoder: Path) -> None:
    """Left-padded and with a cache, as one by one and without; it stops at the end or the limit."""
    model, reader = LlamaForCausalLM.from_pretrained(decoder).eval(), small_decoder.tokenizer()
    together = predict(model, dataset(objects([("a",)] * 4), train=False), batch_size=3, task=TASK)
    for source, text in zip(SOURCES, together, strict=True):
        prompt = f"Meaning: {source}\nText:"
        ids = torch.tensor([reader(prompt)["input_ids"]])
        start = ids.shape[1]
        with torch.no_grad():
            while ids.shape[1] < start + TASK.max_new_tokens:
                ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
                if ids[0, -1] == reader.eos_token_id:
                    break
        assert text == reader.decode(ids[0, start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", ["lora", "prompt", "prefix", "unipelt"])
def test_what_a_method_adds_reads_as_without_padding_and_cache(name: str, decoder: Path) -> None:
    config = RunConfig.of(composed("model=tiny")).model
    config.path, config.architecture = str(decoder), {}
    base = backbone.build(config, outputs=1, seed=0, auto_class="AutoModelForCausalLM")
    tuning_method(f"method={name}").tune(base, seed=0)
    for value in surgery.trainable(base.model).values():
        value.data += 0.3 * torch.randn_like(value)
    model: Any = base.model.eval()
    batch = dataset(objects([("a",)] * 4), train=False).batch([0, 1, 2, 3])
    padded = language_model.left_padded(batch["input_ids"], batch["attention_mask"])
    made = language_model.greedy(model, *padded, most=4, end=-1, padding=0)
    for row, real in enumerate(batch["attention_mask"].bool()):
        ids = start = batch["input_ids"][row][real][None]
        with torch.no_grad():
            for _ in range(4):
                seen = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                ids = torch.cat([ids, model(**seen).logits[:, -1:].argmax(-1)], 1)
        assert made[row].tolist() == ids[0, start.shape[1] :].tolist()


def test_a_row_ends_where_the_model_says_so(decoder: Path) -> None:
    model, end = LlamaForCausalLM.from_pretrained(decoder).eval(), 0
    ids, mask = torch.tensor([[5, 6], [7, 8]]), torch.ones(2, 2, dtype=torch.long)
    model.generation_config.repetition_penalty = 9.0
    settings: Any = {"most": 6, "padding": end}
    free = language_model.greedy(model, ids, mask, end=-1, **settings)
    stop = int(free[0][1])
    made = language_model.greedy(model, ids, mask, end=stop, **settings)
    first = free[0].tolist().index(stop)
    assert made[0][: first + 1].tolist() == free[0][: first + 1].tolist()
    assert set(made[0][first + 1 :].tolist()) <= {end}
    assert model.generation_config.repetition_penalty == 9.0  # and was not heeded


@pytest.mark.parametrize("smooth", [TEXTS, ["x y", "bird", "q", "s", "t"]])
def test_scores_are_those_of_the_libraries(smooth: list[str]) -> None:
    scores = TASK.score(smooth, REFERENCES)
    most = max(map(len, REFERENCES))
    streams: Any = [[r[n] if n < len(r) else None for r in REFERENCES] for n in range(most)]
    assert scores["bleu"] == pytest.approx(BLEU().corpus_score(smooth, streams).score / 100)
    scorer = text_metrics.rouge_scorer()
    best = [
        max(scorer.score(reference, text)["rougeL"].fmeasure for reference in references)
        for text, references in zip(smooth, REFERENCES, strict=True)
    ]
    assert scores["rouge_l"] == pytest.approx(np.mean(best))
    exact = [text in references for text, references in zip(smooth, REFERENCES, strict=True)]
    assert scores["exact_match"] == np.mean(exact)
    assert scores["mean"] == pytest.approx(np.mean([*scores.values()][:3]))


def test_an_answer_may_stand_behind_a_mark() -> None:
    task = Generation("t", ["q"], ["exact_match"], answer_after="####")
    assert task.score(["so 3 #### 12", "12"], [("7 + 5\n####  12",), ("#### 13",)]) == {
        "exact_match": 0.5
    }


MEANING = "name[The Mill], food[English], customer rating[high], near[Café Brazil]"
SAID = {  # a text for MEANING -> missing, wrong, added
    "The Mill near Café Brazil serves British food and is highly rated.": (0, 0, 0),
    "Mill, by Cafe Brazil, has English food; customers rate it 5 out of 5.": (0, 0, 0),
    "": (4, 0, 0),
    "The Mill serves French food near Café Brazil.": (1, 1, 0),
    "The Mill is a cheap, child friendly coffee shop with English food and a high rating, close to"
    " Burger King by the river.": (0, 1, 4),
    "The Mill near Café Brazil, not dear and kid friendly, has English food and is rated high.": (
        0,
        0,
        1,
    ),
    "The Mill near Café Brazil is not family-friendly, has English food, low prices and a great "
    "rating.": (0, 0, 2),
}


@pytest.mark.parametrize(("text", "wanted"), SAID.items())
def test_slots_of_a_meaning_are_found_in_a_text(text: str, wanted: tuple[int, ...]) -> None:
    (found,) = slots.of_texts([text], [MEANING], "e2e")
    assert tuple(found) == (*wanted, 4)


def test_a_phrase_of_several_values_is_that_of_the_meaning() -> None:
    for price in ("moderate", "£20-25"):
        (found,) = slots.of_texts(["A moderately priced pub."], [f"priceRange[{price}]"], "e2e")
        assert found.tolist() == [0, 0, 1, 1], "the pub is added"


def test_slots_of_json_are_compared_as_they_are() -> None:
    def told(**slots: object) -> str:
        return json.dumps({"label": "Play", "slots": slots})

    gold = told(artist=["the cat", "fish"], year="now")
    rows = {gold: (0, 0, 0), told(year="now", artist="fish"): (1, 0, 0),
            told(artist=["the cat", "dog"], year="now", city="x"): (0, 1, 1),
            f"{gold} and more": (3, 0, 0), "[1]": (3, 0, 0)}  # fmt: skip
    task = Generation("t", ["words"], ["slot_accuracy"], slots="tags", word_lists=True)
    references = [(told(), gold)] * len(rows)
    found = task.statistics([*rows], objects(references))["slot_accuracy"]
    assert [tuple(row[:-1]) for row in found] == [
        (0, 0, 0),
        (1, 0, 0),
        (0, 1, 1),
        (0,) * 3,
        (0,) * 3,
    ]
    found = task.statistics([*rows], objects([(gold,)] * len(rows)))["slot_accuracy"]
    assert [tuple(row[:-1]) for row in found] == [*rows.values()]
    assert task.score([*rows], [(gold,)] * len(rows)) == {"slot_accuracy": 1 - 9 / 15}
    assert float(METRICS["slot_accuracy"].of(found.sum(0), 5)) == pytest.approx(1 - 9 / 15)
    assert task.score(["{}"], [(told(),)]) == {"slot_accuracy": 0.0}, "there are no slots"


def test_slots_are_counted_in_what_a_run_generates(decoder: Path, tmp_path: Path) -> None:
    """The meaning comes with its references through the split, and stands in the predictions."""
    rows = json_lines(tmp_path / "rows.jsonl")
    told = f"task.train={rows}", "method=lora", f"model.path={decoder}", "+task.aligner=e2e"
    record = run_cell(tmp_path / "run", *SETTINGS, *told, "task.metrics=[bleu,slot_accuracy]")
    found = pq.read_table(tmp_path / "run/predictions.parquet").to_pydict()
    assert all(re.fullmatch(r"name\[\d+\]", meaning) for meaning in found["meaning"])
    counts = slots.of_texts(found["prediction"], found["meaning"], "e2e")
    assert np.asarray(found["stat_slot_accuracy"]).tolist() == counts.tolist()
    assert record.metrics["test"]["slot_accuracy"] == slots.accuracy(counts)
    (known,) = evidence(rankings.results([tmp_path])).rankings.values()
    assert known["lora"].scores.resampled is not None


@pytest.mark.realdata
def test_references_of_the_cleaned_data_have_few_slot_errors() -> None:
    """And those of another meaning many."""
    cfg = composed("task=e2e_cleaned", f"data.root={os.environ['FINEGRID_DATA_DIR']}",
                   "task.dev=[validation]")  # fmt: skip
    if not paths.rows(cfg.data.root, cfg.task).is_dir():
        pytest.skip("no folder for e2e_cleaned below FINEGRID_DATA_DIR")
    task, tables = load(bind_task(cfg.task), bind(DataConfig, cfg.data, "data"))
    units = read_rows(next(iter(tables.dev.values())), task, "validation").labels
    pairs = [(text, one.source) for one in units for text in one]
    texts, sources = map(list, zip(*pairs, strict=True))
    assert slots.accuracy(slots.of_texts(texts, sources, "e2e")) > 0.975
    assert slots.accuracy(slots.of_texts(texts[200:] + texts[:200], sources, "e2e")) < 0.5


def table(sources: list[str], targets: list[str]) -> pa.Table:
    return pa.table({"source": sources, "target": targets})


def test_rows_of_one_source_are_one_unit() -> None:
    """All its references stand together; no source is on two sides; each trains as a row."""
    sources = [f"s{n // 3}" for n in range(60)]
    rows = table(sources, [f"t{n}" for n in range(60)])
    data = bind(DataConfig, composed("task=mrpc").data, "data")
    splits = split(RawSplits(rows, {"validation": table(["v", "w", "v"], ["a", "b", "c"])}, "x"),
                   TASK, data)  # fmt: skip
    assert splits.test["test"].texts == (["v", "w"],)
    assert splits.test["test"].labels.tolist() == [("a", "c"), ("b",)]
    assert splits.test["test"].idx == [0, 1]
    train, validation = set(splits.train.texts[0]), set(splits.validation.texts[0])
    assert not train & validation
    assert train | validation == set(sources)
    assert len(splits.train) == 3 * len(train)
    assert len(splits.validation) == len(validation)
    for source, target in zip(*splits.train.texts, splits.train.labels, strict=True):
        assert sources[int(target[1:])] == source


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    rows = json_lines(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match="generation needs a causal decoder"):
        run_cell(tmp_path / "run", *SETTINGS, f"task.train={rows}")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (table(["a", "b"], ["x", " "]), "f, row 2: column 'target': target is missing"),
        (table(["a", ""], ["x", "y"]), "f, row 2: column 'source' is empty"),
        (pa.table({"source": [[1]], "target": ["y"]}), "row 1: column 'source' holds a list"),
        (
            pa.table({"source": ["a"], "target": [["y"]]}),
            "row 1: column 'target' holds a list",
        ),
    ],
)
def test_what_is_no_text_is_refused_with_its_row(rows: pa.Table, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_rows(rows, TASK, "f")


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix", "full"])
def test_a_run_is_scored_as_its_predictions_say(method: str, decoder: Path, tmp_path: Path) -> None:
    rows, run = json_lines(tmp_path / "rows.jsonl"), tmp_path / "run"
    record = run_cell(
        run, *SETTINGS, f"task.train={rows}", f"method={method}", f"model.path={decoder}"
    )
    assert (record.status, record.metric) == ("ok", "mean")
    assert record.truncated == {"train": 0, "validation": 0, "test": 0}
    found = pq.read_table(run / "predictions.parquet").to_pydict()
    scores = TASK.score(found["prediction"], found["label"])
    assert record.metrics["test"] == pytest.approx(scores)
    assert record.test_rows == len(found["prediction"]) == 6  # meanings
    assert record.params_head == 0
    if method == "lora":
        assert "verified" in export(run, "merged", tmp_path / "merged")
    sources = [f"name[{n}]" for n in range(3)]
    assert finegrid.load(run).predict(sources)["prediction"].map(type).eq(str).all()


def test_a_report_resamples_units(decoder: Path, tmp_path: Path) -> None:
    """BLEU of the units drawn, from their counts; as the libraries have it for all of them."""
    rows = json_lines(tmp_path / "rows.jsonl")
    for seed in (0, 1):
        told = f"task.train={rows}", "method=lora", f"model.path={decoder}", f"seed={seed}"
        run_cell(tmp_path / str(seed), *SETTINGS, *told, "task.metrics=[bleu]")
    (known,) = evidence(rankings.results([tmp_path])).rankings.values()
    scores = known["lora"].scores
    assert scores.resampled is not None
    assert scores.rows == 6
    assert np.isfinite(scores.resampled).all()
    found = pq.read_table(tmp_path / "0/predictions.parquet").to_pydict()
    counts = np.asarray(found["stat_bleu"])
    assert text_metrics.bleu(counts) == pytest.approx(
        TASK.score(found["prediction"], found["label"])["bleu"]
    )


def test_sums_of_counts_are_the_corpus_bleu() -> None:
    counts = text_metrics.bleu_counts(TEXTS, REFERENCES)
    assert counts.shape == (5, 10)
    for drawn in (counts, counts[:2], counts[[3, 3]]):
        ours = float(METRICS["bleu"].of(drawn.sum(0), len(drawn)))
        assert ours == pytest.approx(text_metrics.bleu(drawn))


def test_texts_that_leave_no_positions_are_refused(decoder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [{"source": f"name[{n}]", "target": "fish"} for n in range(40)]
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    told = f"task.train={rows}", f"model.path={decoder}", "method=lora"
    with pytest.raises(UserError, match=r"the task generates 250, but .* has 256 positions"):
        run_cell(tmp_path / "run", *SETTINGS, *told, "task.max_new_tokens=250")


def test_tags_of_words_become_json() -> None:
    """A slot that occurs twice is a list; class numbers are read by the names that a file has."""
    names = ["O", "B-artist", "I-artist", "B-year"]
    features = {"intent": {"names": ["Play", "Rate"]}, "tags": {"feature": {"names": names}}}
    rows = pa.table({"words": [["play", "the", "cat", "and", "fish"], ["now"]], "intent": [0, 1],
                     "tags": [[0, 1, 2, 0, 1], [3]]})  # fmt: skip
    told = json.dumps({"info": {"features": features}})
    task = Generation("t", ["words"], ["exact_match"], label="intent", slots="tags",
                      word_lists=True)  # fmt: skip
    read = read_rows(rows.replace_schema_metadata({"huggingface": told}), task, "f")
    assert read.texts == (["play the cat and fish", "now"],)
    assert [json.loads(one) for (one,) in read.labels] == [
        {"label": "Play", "slots": {"artist": ["the cat", "fish"]}},
        {"label": "Rate", "slots": {"year": "now"}},
    ]
    with pytest.raises(UserError, match="f, row 1: tag 0 is neither O nor"):
        read_rows(rows, task, "f")


def json_lines(path: Path) -> Path:
    lines = [{"source": f"name[{n // 2}]", "target": f"the fish {n}"} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_tied_embeddings_train_as_a_head_too(decoder: Path, tmp_path: Path) -> None:
    """With the kernels as without: also the rows of tokens that no text has."""
    rows, deltas = json_lines(tmp_path / "rows.jsonl"), []
    for kernels in ("true", "false"):
        run = tmp_path / kernels
        told = [f"task.train={rows}", "method=full", f"model.path={decoder}", "optim.lr=1e-3"]
        run_cell(run, *SETTINGS, *told, "optim.weight_decay=0", f"trainer.kernels={kernels}")
        deltas.append(load_file(run / "delta.safetensors"))
    (name,) = [name for name in deltas[0] if "embed_tokens" in name]
    assert not any("lm_head" in name for name in deltas[0])
    for key, value in deltas[0].items():
        torch.testing.assert_close(value, deltas[1][key], rtol=0, atol=1e-5)
    before = LlamaForCausalLM.from_pretrained(decoder).get_input_embeddings().weight
    assert ((deltas[0][name] - before).abs().amax(1) > 0).all()


def test_a_method_that_trains_the_head_alone_is_refused(decoder: Path, tmp_path: Path) -> None:
    rows = json_lines(tmp_path / "rows.jsonl")
    told = f"task.train={rows}", "method=head", f"model.path={decoder}"
    with pytest.raises(UserError, match="nothing trains"):
        run_cell(tmp_path / "run", *SETTINGS, *told)


def test_without_rows_the_model_is_scored_as_it_is(decoder: Path, tmp_path: Path) -> None:
    rows = json_lines(tmp_path / "rows.jsonl")
    told = f"task.train={rows}", "method=head", f"model.path={decoder}", "data.rows=0"
    record = run_cell(tmp_path / "run", *SETTINGS, *told)
    assert (record.status, record.train_rows, record.steps) == ("ok", 0, 0)
    assert record.test_rows == 6
