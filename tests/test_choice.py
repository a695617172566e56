"""Choice: options of questions as tables hold them, scores of encoders, likelihoods of decoders."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_decoder
import torch
from conftest import composed, run_cell
from transformers import LlamaForCausalLM

import finegrid
from finegrid.config import RunConfig, bind_task
from finegrid.data.batching import TokenizedDataset
from finegrid.data.examples import Examples, read_rows
from finegrid.data.files import read_table
from finegrid.data.tokenization import encode
from finegrid.errors import UserError
from finegrid.inference import predict_file
from finegrid.models import backbone
from finegrid.tasks.choice import Choice
from finegrid.tasks.modules import options, prompts
from finegrid.training.module import predict

QUESTIONS = [
    ("what does the cat eat?", ("a fish", "the old red river and all birds", "night"), 0),
    ("who eats at night?", ("the bird", "a cat", "the mill", "food", "English"), 3),
    ("name the river", ("mill", "The Mill", "near the green food", "e"), 2),
]
TASK = Choice("t", ["question"], ["accuracy", "accuracy_norm"], headline="accuracy")
SETTINGS = ("task=custom", "task.kind=choice", "task.text=question", "task.choices=choices",
            "task.label=answer", "budget=steps", "budget.steps=2", "evaluations=1",
            "data.batch_size=4", "data.eval_batch_size=8", "model.max_length=64",
            "trainer.threads=1")  # fmt: skip


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_decoder.save(tmp_path_factory.mktemp("decoder"))


def write_rows(path: Path, count: int = 60) -> Path:
    """Questions with three to five options, as JSON lines."""
    rows = []
    for n in range(count):
        texts = [f"{word} {n}" for word in ("fish", "red bird", "the mill", "food", "cat")]
        texts = texts[: 3 + n % 3]
        rows.append({"question": f"who eats {n}?", "choices": texts, "answer": n % len(texts)})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([("B", {"text": ["x", "y"], "label": ["A", "B"]})], [1]),
        ([("1", {"text": ["x", "y"], "label": ["1", "2"]})], [0]),
        ([("y", ["x", "y", "z"]), ("x", ["x", "w"])], [1, 0]),
        ([(" C ", ["x", "y", "z"])], [2]),
        ([("0", ["x", "y"]), (1, ["x", "y"])], [0, 1]),
        ([("1", '["x", "y"]')], [1]),
        ([("0", ["4", "1", "0"]), ("2", ["7", "8", "9"])], [0, 2]),  # by place: 2 is no text there
    ],
)
def test_answers_are_names_texts_letters_or_places(values: Any, places: list[int]) -> None:
    assert TASK.read_labels(values, "f", typed=True).tolist() == places


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([("x", ["x", "y"]), ("q", ["x", "y"])], "f, row 2: column 'label': answer q is none of"),
        ([(None, ["x", "y"])], "f, row 1: column 'label': answer is missing"),
        ([("2", ["x", "y"])], "answer 2 is none of the 2 options x, y"),
        ([("1", ["4", "2", "1"])], "is one option's text and another's"),
        ([("x", "x, y")], "f, row 1: column 'choices': x, y is not JSON"),
        ([("x", 3)], "3 holds no options"),
        ([("x", ["x"])], "1 options; from 2 to 255"),
        ([("x", ["x", " "])], "an option is empty"),
        ([("A", {"text": ["x", "y"], "label": ["A", "A"]})], "as many names, each once"),
    ],
)
def test_what_is_no_question_is_refused_with_its_row(values: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        TASK.read_labels(values, "f", typed=True)


def encoded(reader: Any, *, decoder: bool, train: bool = False, length: int = 64) -> Any:
    """The questions as a data set."""
    questions, choices, labels = zip(*QUESTIONS, strict=True)
    texts, right = (list(questions), list(choices)), np.asarray(labels)
    tokens = encode(texts, reader, length, task=TASK, labels=right, decoder=decoder, train=train)
    return TokenizedDataset(Examples(texts, right, [0, 1, 2]), tokens, collate=TASK.collate)


def test_a_decoder_scores_each_option_as_one_by_one(decoder: Path) -> None:
    """Summed log-probabilities of the option's tokens, and those by its characters."""
    model, reader = LlamaForCausalLM.from_pretrained(decoder), small_decoder.tokenizer()
    outputs = predict(model, encoded(reader, decoder=True), batch_size=2, task=TASK)
    for (question, choices, _), (sums, normed) in zip(QUESTIONS, outputs, strict=True):
        prompt = f"Question: {question}\nAnswer:"
        for place, option in enumerate(choices):
            start = len(reader(prompt)["input_ids"])
            ids = torch.tensor([reader(f"{prompt} {option}")["input_ids"]])
            with torch.no_grad():
                each = model(ids).logits[0].log_softmax(-1)
            sum_of = each[torch.arange(start - 1, ids.shape[1] - 1), ids[0, start:]].sum()
            assert sums[place] == pytest.approx(float(sum_of), abs=1e-4)
            assert normed[place] == pytest.approx(float(sum_of) / len(option), abs=1e-5)
    assert [len(sums) for sums, _ in outputs] == [3, 5, 4]


def test_a_decoder_trains_on_the_right_options_tokens(decoder: Path) -> None:
    model, reader = LlamaForCausalLM.from_pretrained(decoder), small_decoder.tokenizer()
    batch = encoded(reader, decoder=True, train=True).batch([0, 1, 2])
    model.train()
    logits = TASK.logits(model, batch, forward=None)  # type: ignore[arg-type]
    loss = TASK.loss(logits, batch["labels"])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    torch.testing.assert_close(loss, model(**inputs).loss)
    right = [choices[place] for _, choices, place in QUESTIONS]
    targets = [reader.decode(row[row != -100]) for row in batch["labels"]]
    assert targets == [f" {text}" for text in right]
    assert TASK.loss_terms(batch["labels"]) == len(logits)


def test_an_encoder_scores_pairs_whatever_their_company() -> None:
    """The softmax is over a question's own options; each batch has every option of its rows."""
    config = RunConfig.of(composed("model=tiny")).model
    base = backbone.build(config, outputs=1, seed=0)
    base.model.eval()
    reader = backbone.tokenizer(config)
    data = encoded(reader, decoder=False)

    def forward(model: Any, batch: Any) -> torch.Tensor:
        return model(**batch).logits

    batch = data.batch([0, 1, 2])
    with torch.no_grad():
        scores = TASK.logits(base.model, batch, forward=forward)
        for row, (question, choices, _) in enumerate(QUESTIONS):
            for place, option in enumerate(choices):
                alone = base.model(**reader(question, option, return_tensors="pt")).logits
                assert float(scores[row, place]) == pytest.approx(float(alone), abs=1e-5)
    assert scores.shape == (3, 5)
    assert (scores == -torch.inf).sum() == 3
    outputs = predict(base.model, data, batch_size=2, task=TASK)
    parts = [-float(scores[row].log_softmax(-1)[q[2]]) for row, q in enumerate(QUESTIONS)]
    assert float(TASK.loss(scores, batch["labels"])) == pytest.approx(np.mean(parts))
    assert TASK.loss_of_all(outputs, data.labels) == pytest.approx(np.mean(parts), abs=1e-5)


def test_the_prompt_loses_its_first_tokens_where_a_row_is_too_long() -> None:
    reader = small_decoder.tokenizer()
    made = prompts.continued(reader, ["one two three:", "a:"], [" four", " b"], max_length=9)
    full = reader("one two three: four")["input_ids"]
    assert made.ids[0] == full[-9:]
    assert made.ids[0][made.starts[0] :] == reader(" four")["input_ids"]
    assert made.cut == [True, False]
    long = prompts.continued(reader, ["a:"], [" four five"], max_length=4)
    assert (len(long.ids[0]), long.starts[0]) == (4, 1)


def test_a_prompt_that_runs_into_what_follows_is_refused() -> None:
    whole = {"ab": [1, 2], "abc": [3]}
    fake = SimpleNamespace(__call__=None)
    fake = lambda texts, **_: {"input_ids": [whole[text] for text in texts]}  # noqa: E731
    with pytest.raises(UserError, match=r"task\.template: the tokens of the prompt 'ab'"):
        prompts.continued(fake, ["ab"], ["c"], max_length=9)


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_a_run_is_scored_as_its_predictions_say(family: str, decoder: Path, tmp_path: Path) -> None:
    rows, run = write_rows(tmp_path / "rows.jsonl"), tmp_path / "run"
    model = [f"model.path={decoder}"] if family == "decoder" else []
    metrics = ["task.metrics=[accuracy,accuracy_norm]", "+task.headline=accuracy"]
    record = run_cell(run, *SETTINGS, f"task.train={rows}", "method=lora", *metrics, *model)
    assert (record.status, record.metric) == ("ok", "accuracy")
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    counts = [len(scores) for scores in table["scores"]]
    assert set(counts) == {3, 4, 5}
    chosen = [int(np.argmax(scores)) for scores in table["scores"]]
    assert chosen == table["prediction"]
    right = np.mean([a == b for a, b in zip(chosen, table["label"], strict=True)])
    assert record.test == pytest.approx(right)
    assert ("accuracy_norm" in record.metrics["test"]) == (family == "decoder")
    assert predict_file(run, rows, tmp_path / "out.csv") == len(table["label"]) * 5
    chosen = finegrid.load(run).predict([(f"who eats {n}?", ["fish", "a cat"]) for n in range(3)])
    assert set(chosen["prediction"]) <= {0, 1}
    if family == "decoder":
        assert record.params_head == 0
        normed = [int(np.argmax(scores)) for scores in table["scores_norm"]]
        share = np.mean([a == b for a, b in zip(normed, table["label"], strict=True)])
        assert record.metrics["test"]["accuracy_norm"] == pytest.approx(share)


def test_an_encoder_has_no_likelihoods() -> None:
    task = bind_task(composed("task=arc_easy", "task.headline=accuracy_norm").task)
    assert task.auto_class(decoder=True) == "AutoModelForCausalLM"
    with pytest.raises(UserError, match=r"set task\.headline=accuracy"):
        task.auto_class(decoder=False)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task.template='Question:'", r"must hold \{text\} once"),
        ("task.text=[a,b]", "must name the column of the questions"),
    ],
)
def test_a_task_that_contradicts_itself_is_one_line(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        bind_task(composed("task=arc_easy", override).task)


def test_numbers_are_options_too() -> None:
    assert options.rows([[1, 2.5, True]], "c", "f") == [(("1", "2.5", "true"), None)]


def test_its_longest_sequence_is_an_options() -> None:
    reader = small_decoder.tokenizer()
    prompt, (question, choices, _) = "Question: {}\nAnswer: {}", QUESTIONS[0]
    lengths = [len(reader(prompt.format(question, text))["input_ids"]) for text in choices]
    assert encoded(reader, decoder=True).longest == max(lengths)


def test_rows_that_are_cut_are_counted() -> None:
    reader = small_decoder.tokenizer()
    assert encoded(reader, decoder=True).tokens.truncated == 0
    assert encoded(reader, decoder=True, length=20).tokens.truncated == 3


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_questions_come_from_each_kind_of_file(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{ending}"
    rows = [{"question": f"who {n}?", "choices": ["a, b", f"c {n}"], "answer": "AB"[n]}
            for n in (0, 1)]  # fmt: skip
    if ending == "csv":
        frame = pd.DataFrame(rows)
        frame.assign(choices=frame["choices"].map(json.dumps)).to_csv(file, index=False)
    elif ending == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    task = Choice("t", ["question"], ["accuracy"], label="answer")
    read = read_rows(read_table(file), task, "f")
    assert read.texts == (["who 0?", "who 1?"], [("a, b", "c 0"), ("a, b", "c 1")])
    assert read.labels.tolist() == [0, 1]


def test_likelihoods_are_in_fp32_whatever_the_precision(decoder: Path) -> None:
    config = RunConfig.of(composed("model=tiny")).model
    config.path, config.architecture = str(decoder), {}
    base = backbone.build(config, outputs=1, seed=0, auto_class="AutoModelForCausalLM")
    batch = encoded(small_decoder.tokenizer(), decoder=True, train=True).batch([0, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        logits = TASK.logits(base.model, batch, forward=None)  # type: ignore[arg-type]
    assert logits.dtype == torch.float32


def test_without_rows_the_model_is_scored_as_it_is(decoder: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    told = f"task.train={rows}", "method=head", f"model.path={decoder}", "data.rows=0"
    record = run_cell(tmp_path / "run", *SETTINGS, *told)
    assert (record.status, record.train_rows, record.steps) == ("ok", 0, 0)


def test_questions_come_from_a_frame(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in write_rows(tmp_path / "rows.jsonl").open()]
    frame, where = pd.DataFrame(rows), tmp_path / "frames"
    task = finegrid.Task.from_frame(
        frame, text="question", label="answer", choices="choices", kind="choice", directory=where
    )
    record = run_cell(tmp_path / "run", *task.overrides, "budget=steps", "budget.steps=1")
    assert record.metric == "accuracy"
