"""Heads: class means, words read by the language-model head; what they share with a classifier."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import composed, run_cell
from omegaconf import OmegaConf
from safetensors.torch import load_file
from test_models import small_architecture
from test_together import request, result
from transformers import AutoModelForMaskedLM, BertModel

from finegrid.config import RunConfig
from finegrid.data.builtin import MODEL_DIR
from finegrid.errors import UserError
from finegrid.export import export
from finegrid.inference import restore
from finegrid.models import backbone, heads
from finegrid.models.backbone import Backbone
from finegrid.models.heads import cloze
from finegrid.models.heads.pattern import PatternHead, Words
from finegrid.models.heads.prototype import DISTANCE, RATE, PrototypeHead, prototypes
from finegrid.runs import delta, identity
from finegrid.runs.record import read
from finegrid.strategies.fused_trainer import run_together
from finegrid.tasks.classification import Classification
from finegrid.tasks.modules.heads import check_head
from finegrid.tasks.modules.pattern import Pattern
from finegrid.training import forgetting
from finegrid.training.components import load_backbone, prepare, rows_of

SHORT = ("data.fraction=0.05", "data.validation_max=50", "budget.epochs=1", "evaluations=2")
OTHERS = ("head=pattern", "head=prototype")
TASK: dict[str, Any] = {
    "name": "t",
    "text": ["one", "two"],
    "metrics": ["accuracy"],
    "labels": ["bad", "good"],
}


@cache
def tokenizer() -> Any:
    return backbone.tokenizer(RunConfig.of(composed("model=tiny")).model)


def task(template: str, *words: str, **changes: Any) -> Classification:
    return Classification(**TASK | {"pattern": Pattern(template, list(words))} | changes)


def built(*overrides: str) -> Backbone:
    config = RunConfig.of(composed("model=tiny", "trainer.kernels=false", *overrides))
    return load_backbone(config, config.task)[0]


# what is the same of every head


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("head", OTHERS)
def test_a_loaded_run_predicts_the_same(head: str, method: str, tmp_path: Path) -> None:
    record = run_cell(tmp_path, f"method={method}", head, *SHORT)
    assert record.head == head.removeprefix("head=")
    run = restore(tmp_path)
    rows = rows_of(run.config)[1].test["test"]
    stored = pq.read_table(tmp_path / "predictions.parquet")["scores"].to_pylist()
    again = run.logits(rows.texts)
    torch.testing.assert_close(again, torch.tensor(stored), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=f"no class for a model with {head}"):
        export(tmp_path, "merged", tmp_path / "out")


@pytest.mark.parametrize("head", OTHERS)
def test_runs_of_a_pass_are_as_alone(head: str, tmp_path: Path) -> None:
    lines = [("method=bitfit", head, *SHORT), ("method=lora", "seed=1", head, *SHORT)]
    run_together([request(tmp_path / str(n), *line) for n, line in enumerate(lines)], most=2)
    for number, line in enumerate(lines):
        fused, alone = read(tmp_path / str(number)), run_cell(tmp_path / f"alone{number}", *line)
        assert (fused.status, fused.fused) == ("ok", 2)
        ours, theirs = result(fused), result(alone)
        for key in ("test", "validation", "validation_loss", "params_head", "params_delta"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3), key
        deltas = [load_file(tmp_path / f"{place}{number}" / delta.FILE) for place in ("", "alone")]
        for name, tensor in deltas[1].items():
            torch.testing.assert_close(deltas[0][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("head", OTHERS)
def test_without_dropout_nothing_changes(head: str, tmp_path: Path) -> None:
    none = [f"+model.config.{name}_dropout_prob=0" for name in ("hidden", "attention_probs")]
    lines = ("method=layers", "method.layers=top-1", head, *none, *SHORT)
    usual, ours = (
        run_cell(tmp_path / kind, *lines, f"frozen_dropout={kind}") for kind in ("true", "false")
    )
    assert ours.test == pytest.approx(usual.test, abs=1e-5)
    assert ours.validation_loss == pytest.approx(usual.validation_loss, rel=1e-4)


def test_only_a_pattern_head_makes_its_template_part_of_the_cell() -> None:
    def cell(*overrides: str) -> str:
        plain: Any = OmegaConf.to_container(composed(*overrides), resolve=True)
        return identity.cell(plain)

    older: Any = OmegaConf.to_container(composed("task=rte"), resolve=True)
    del older["head"], older["forgetting"], older["task"]["pattern"]
    assert identity.cell(older) == cell("task=rte") == cell("task=rte", "forgetting=true")
    words = "task.pattern.words=[yes,no]"
    assert cell("task=rte", words) == cell("task=rte")
    cells = {cell("task=rte", *more) for more in ((), *((head,) for head in OTHERS))}
    assert len(cells | {cell("task=rte", "head=pattern", words)}) == 4


@pytest.mark.parametrize("head", OTHERS)
def test_regression_is_refused_before_anything_loads(head: str) -> None:
    with pytest.raises(UserError, match=r"does not fit task.kind=regression.*classifier"):
        RunConfig.of(composed("task=builtin_similarity", head))


def test_a_head_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match=r"head=patern does not fit.*did you mean 'pattern'"):
        RunConfig.of(composed("head.name=patern"))


# class means


def test_means_start_from_rows_and_follow_the_steps() -> None:
    base, head = built("head=prototype"), PrototypeHead()
    module = prototypes(base.model)
    torch.manual_seed(0)
    states, labels = torch.randn(6, 128), torch.tensor([0, 1, 1, 0, 1, 0])

    def passes() -> Any:
        for start in (0, 3):
            module.eval()(states[start : start + 3])
            yield labels[start : start + 3]

    head.begin(base.model, passes())
    means = torch.stack([states[labels == number].mean(0) for number in (0, 1)])
    torch.testing.assert_close(module.means.detach(), means)
    logits = module(states)
    own = -logits[torch.arange(6), labels]
    assert float(own.mean().detach()) == pytest.approx(DISTANCE, rel=1e-5)
    distances = torch.cdist(states, means) ** 2
    torch.testing.assert_close(logits, -module.log_scale.exp() * distances, rtol=1e-4, atol=1e-4)
    assert not module.states, "a prediction keeps nothing"

    logits = module.train()(states[:2])
    logits.sum().backward()
    assert module.means.grad is None
    assert module.log_scale.grad is not None
    head.after_step(base.model, labels[:2])
    moved = means + RATE * (states[:2] - means)  # rows 0 and 1 are of classes 0 and 1
    torch.testing.assert_close(module.means.detach(), moved)
    assert not module.states


def test_every_method_starts_from_the_same_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    begin = PrototypeHead.begin

    def noted(self: PrototypeHead, model: Any, passes: Any) -> None:
        begin(self, model, passes)
        begun.append([p.detach().clone() for p in prototypes(model).parameters()])

    monkeypatch.setattr(PrototypeHead, "begin", noted)
    steps = ("head=prototype", *SHORT[:2], "budget=steps", "budget.steps=1")
    for method in ("full", "prompt", "sparse"):  # the third chooses by gradients
        run_cell(tmp_path / method, f"method={method}", *steps)
    for other in begun[1:]:
        assert all(torch.equal(a, b) for a, b in zip(begun[0], other, strict=True))
    means = load_file(tmp_path / "full" / delta.FILE)["classifier.means"]
    assert not torch.equal(means, begun[0][0])


def test_nothing_but_scale_and_means_trains_under_a_probe(tmp_path: Path) -> None:
    record = run_cell(tmp_path, "method=head", "head=prototype", *SHORT)
    assert (record.params_delta, record.params_head) == (0, 2 * 128 + 1)
    assert set(load_file(tmp_path / delta.FILE)) == {"classifier.means", "classifier.log_scale"}


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "albert", "llama"])
def test_prototypes_take_the_place_of_any_architectures_last_matrix(kind: str) -> None:
    config = RunConfig.of(
        composed(
            "model=bert-base", "model.pretrained=false", "head=prototype", "trainer.kernels=false"
        )
    )
    config.model.architecture = small_architecture(kind)
    base, _ = load_backbone(config, config.task)
    assert base.model(input_ids=torch.tensor([[5, 6, 7]])).logits.shape == (1, 2)
    assert isinstance(prototypes(base.model).means, torch.nn.Parameter)


# words


def test_a_cloze_is_the_template_with_masks_and_a_prompt_ends_before_them() -> None:
    two = task("{one} this is {label} . {two}", "not", "numerous")
    rows = (["the cat slept [MASK]"], ["a dog"])
    for decoder, behind in ((False, ["[MASK]", ".", "a", "dog", "[SEP]"]), (True, [])):
        reader = PatternHead().reader(two)
        encoded = reader.encode(rows, None, tokenizer(), max_length=64, decoder=decoder, train=True)
        words = tokenizer().convert_ids_to_tokens(encoded["input_ids"][0])
        assert words[words.index("is") + 1 :] == behind
        assert words[: words.index("is")].count("[MASK]") == 0, "a special token's name is text"


@pytest.mark.parametrize("decoder", [False, True])
def test_long_texts_are_cut_and_the_template_is_kept(decoder: bool) -> None:
    made = PatternHead().reader(task("the cat {one} was {two} this is {label}", "not", "right"))
    long, short = "dog " * 40, "horse soup"
    rows = ([long, "dog"], [short, short])
    encoded = made.encode(rows, None, tokenizer(), max_length=20, decoder=decoder, train=True)
    assert encoded["truncated"] == 1
    first = tokenizer().convert_ids_to_tokens(encoded["input_ids"][0])
    assert len(first) == 20 - decoder  # the word is behind the prompt
    kept = [word for word in first if word not in ("[CLS]", "[SEP]", "[MASK]", "dog")]
    assert kept == ["the", "cat", "was", "horse", "soup", "this", "is"]
    with pytest.raises(UserError, match="leaves no room for texts"):
        made.encode(rows, None, tokenizer(), max_length=6, decoder=decoder, train=True)


def test_words_of_several_tokens_are_read_at_as_many_masks() -> None:
    words = ("broken", "unbroken")
    pieces = [len(ids) for ids in tokenizer()([*words], add_special_tokens=False)["input_ids"]]
    assert pieces[0] == 1 < pieces[1]
    setting = "task.pattern={template: '{sentence} this is {label} .', words: [broken, unbroken]}"
    base = built("head=pattern", "task=builtin_acceptability", setting)
    reader = PatternHead().reader(
        RunConfig.of(composed("task=builtin_acceptability", setting)).task
    )
    encoded = reader.encode(
        (["the cat slept"],), np.zeros(1), tokenizer(), max_length=64, decoder=False, train=True
    )["input_ids"]
    ids = torch.tensor(encoded)
    mask = tokenizer().mask_token_id
    assert int((ids == mask).sum()) == pieces[1]
    with torch.no_grad():
        plain = AutoModelForMaskedLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
        likely = plain(input_ids=ids).logits[0].log_softmax(-1)[ids[0] == mask]
        logits = base.model.eval()(input_ids=ids).logits[0]
    for number, word in enumerate(words):
        of_word = tokenizer()(word, add_special_tokens=False)["input_ids"]
        mean = sum(likely[place, token] for place, token in enumerate(of_word)) / len(of_word)
        assert float(logits[number]) == pytest.approx(float(mean), rel=1e-4)


def decoder_of(*words: tuple[int, ...]) -> Any:
    """A small random Llama that reads these words."""
    config = RunConfig.of(composed("model=bert-base", "model.pretrained=false")).model
    config.architecture = small_architecture("llama")
    base = backbone.build(config, outputs=2, seed=0, auto_class="AutoModelForCausalLM")
    head = PatternHead()

    def reads(*_: Any) -> list[list[int]]:
        return [list(word) for word in words]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloze, "word_ids", reads)
        head.attach(base, RunConfig.of(composed("task=rte")).task, lambda: None)
    assert base.model.words == Words(words, None)
    return base.model.eval()


@pytest.mark.parametrize("words", [((3,), (4,)), ((3,), (4, 7, 9), (4, 8))], ids=["one", "several"])
def test_a_decoder_reads_words_behind_the_prompt(words: tuple[tuple[int, ...], ...]) -> None:
    model = decoder_of(*words)
    plain = type(model).__mro__[1]
    rows = [[5, 6, 7, 8, 9], [11, 12], [13, 14, 15]]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
        for row, found in zip(rows, logits, strict=True):
            for word, value in zip(words, found.tolist(), strict=True):
                told = torch.tensor([[*row, *word]])
                likely = plain.forward(model, input_ids=told).logits[0].log_softmax(-1)
                each = [likely[len(row) - 1 + n, token] for n, token in enumerate(word)]
                assert value == pytest.approx(float(sum(each)) / len(word), abs=1e-4)


@pytest.mark.parametrize(("method", "trains"), [("full", True), ("lora", False), ("bitfit", False)])
def test_the_head_trains_with_the_embeddings_it_is_tied_to(method: str, trains: bool) -> None:
    from conftest import tuning_method

    base = built("head=pattern")
    tuning_method(f"method={method}").tune(base, seed=0)
    outside = {n: p for n, p in base.model.named_parameters() if not n.startswith("bert.")}
    assert len(outside) == 5
    assert all(p.requires_grad == trains for p in outside.values())


def test_without_rows_the_model_is_scored_as_it_is(tmp_path: Path) -> None:
    rows = ("data.validation_max=50", "data.rows=0", "head=pattern")
    probe, lora = (run_cell(tmp_path / m, f"method={m}", *rows) for m in ("head", "lora"))
    assert (probe.train_rows, probe.steps, probe.budget, probe.best_step) == (0, 0, 0.0, 0)
    assert probe.train_seconds == 0
    assert (probe.params_delta, probe.params_head) == (0, 0)
    assert probe.metrics == lora.metrics
    assert read(tmp_path / "head") == probe
    setup = restore(tmp_path / "head")
    assert setup.logits((["the cat slept"], ["a cat slept"])).shape == (1, 2)


def lacks(tmp_path: Path) -> str:
    BertModel.from_pretrained(MODEL_DIR).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((MODEL_DIR / name).read_bytes())
    return f"model.path={tmp_path}"


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "a user's turn around a pattern": (
        ("head=pattern", "model.chat_template=own"), "head=pattern makes its own prompts",
    ),
    "no rows for a fresh head": (("data.rows=0",), "data.rows=0 scores a model without training"),
    "no rows to choose by": (
        ("data.rows=0", "head=pattern", "method=sparse"), "leaves no rows for method=sparse",
    ),
    "nothing to train": (("data.rows=8", "head=pattern", "method=head"), "nothing trains"),
    "a text behind the word, on a decoder": (
        ("task=rte", "head=pattern", "model=smollm2-135m", "model.pretrained=false",
         "task.pattern.template='{sentence1} {label} {sentence2}'"),
        "a decoder reads nothing behind",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_one_line(name: str, tmp_path: Path) -> None:
    overrides, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as caught:
        run_cell(tmp_path, *overrides)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_language_model_head_is_refused_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded")

    path = lacks(tmp_path / "model")
    monkeypatch.setattr("finegrid.training.components.load", nothing)
    with pytest.raises(UserError, match="holds no language-model head"):
        run_cell(tmp_path / "run", "head=pattern", path)


@pytest.mark.parametrize(
    ("template", "words", "why"),
    [
        ("{one} {two}", ("a", "b"), "must hold {label} once"),
        ("{one} {label}", ("a", "b"), "has no place for {two}"),
        ("{one} {tow} {label}", ("a", "b"), "{tow} is no text column; did you mean 'two'"),
        ("{one} {two} {label}", ("a", "b", "c"), "are 3, but the classes 2"),
        ("{one} {two} {label}", ("a", "a"), "all different"),
    ],
)
def test_a_pattern_that_does_not_fit_its_task_is_refused(
    template: str, words: tuple[str, ...], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        task(template, *words)
    with pytest.raises(UserError, match=r"needs task\.pattern"):
        check_head(Classification(**TASK), "pattern")


def test_words_that_the_tokenizer_does_not_know_or_tell_apart_are_refused() -> None:
    for words, why in ((("☃", "cat"), "does not know"), (("Cat", "cat"), "tokens of another")):
        with pytest.raises(UserError, match=why):
            cloze.word_ids(Pattern("{label}", list(words)), tokenizer())


def test_every_head_of_conf_is_known() -> None:
    options = {path.stem for path in (Path(__file__).parents[1] / "conf/head").glob("*.yaml")}
    assert options == set(heads.HEADS)


# forgetting


def components(*overrides: str) -> Any:
    config = RunConfig.of(composed("model=tiny", "data.rows=16", *overrides))
    made = prepare(config)
    made.method.tune(made.module.backbone, seed=0)
    return made


@pytest.mark.parametrize(
    ("method", "head"),
    [("full", "head=pattern"), ("lora", "head=prototype"), ("houlsby", "head=classifier")],
)
def test_a_delta_that_changes_nothing_forgets_nothing(method: str, head: str) -> None:
    made = components(f"method={method}", head)
    assert forgetting.measure(made) == 0.0
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.module.backbone.model.base_model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    assert abs(float(forgetting.measure(made) or 0)) > 1e-3


def test_a_decoder_forgets_nothing_either(tmp_path: Path) -> None:
    source = decoder_of((3,), (4,))
    plain = type(source).__mro__[2]
    config = source.config
    config.vocab_size = 613
    torch.manual_seed(0)
    plain(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((MODEL_DIR / name).read_bytes())
    local = (f"model.path={tmp_path}", "trainer.kernels=false", "model.max_length=32")
    assert forgetting.measure(components("method=lora", *local)) == 0.0


def test_what_is_not_measured_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for more, why in (
        ((lacks(tmp_path / "model"),), "holds no language-model head"),
        (("model.pretrained=false",), "random weights know nothing"),
    ):
        assert forgetting.measure(components("method=lora", *more)) is None
        assert why in caplog.text


def test_forgetting_is_a_cost_of_a_run_that_asks_for_it(tmp_path: Path) -> None:
    short = ("method=full", *SHORT[:2], "budget=steps", "budget.steps=2")
    asked = run_cell(tmp_path / "asked", *short, "forgetting=true")
    usual = run_cell(tmp_path / "usual", *short)
    assert usual.forgetting is None
    assert asked.forgetting
    assert (asked.cell, asked.test) == (usual.cell, usual.test)
