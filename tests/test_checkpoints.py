"""Checkpoints as people have them: each trains as it should, or is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from conftest import composed, run_cell
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

from finegrid import inference
from finegrid.config import RunConfig
from finegrid.data import builtin
from finegrid.errors import UserError
from finegrid.export import export
from finegrid.models import backbone
from finegrid.runs import delta, identity, predictions
from finegrid.runs.record import read
from finegrid.runs.spec import RunSpec
from finegrid.strategies.fused_trainer import run_together
from finegrid.training.components import RunComponents, prepare, rows_of

VOCABULARY = 613  # of the builtin tokenizer
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
DISTIL = {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
WHOLE, SHARDS = "model.safetensors", "model.safetensors.index.json"
Edit = Callable[[Path], Any]
Folder = Callable[..., Path]


def tokenizer(*, types: bool = True, **named: Any) -> PreTrainedTokenizerFast:
    """The builtin tokenizer; keyword arguments change what is said of it."""
    names = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    words = Tokenizer.from_file(str(builtin.MODEL_DIR / "tokenizer.json"))
    about = {**SPECIAL, "model_input_names": names, **named}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, **{key: value for key, value in about.items() if value is not None}
    )


def save(
    folder: Path,
    auto: Any = AutoModel,
    *,
    dtype: torch.dtype = torch.float32,
    words: PreTrainedTokenizerFast | None = None,
    shard: str = "1GB",
    **architecture: Any,
) -> Path:
    """Write a small model and its tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{"model_type": "bert", **SMALL, **architecture})
    auto.from_config(config).to(dtype).save_pretrained(folder, max_shard_size=shard)
    (words or tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes a checkpoint's folder, by default a plain BERT's."""

    def make(**settings: Any) -> Path:
        return save(tmp_path / "model", **settings)

    return make


def prepared(path: Path, *overrides: str) -> RunComponents:
    """A run's parts, as they are checked before its first step."""
    cfg = composed(f"model.path={path}", "task=builtin_paraphrase", "data.fraction=0.05",
                   "method=head", *overrides)  # fmt: skip
    return prepare(RunConfig.of(cfg))


def logits(parts: RunComponents) -> torch.Tensor:
    """Of the first training rows."""
    batch = parts.encoded["train"].batch(range(8))
    with torch.no_grad():
        return parts.module.model(
            **{k: v for k, v in batch.items() if k not in ("labels", "real_tokens")}
        ).logits


def settings(**changes: Any) -> Edit:
    """Change config.json; None takes a key out."""

    def edit(path: Path) -> None:
        about = json.loads((path / "config.json").read_text()) | changes
        kept = {key: value for key, value in about.items() if value is not None}
        (path / "config.json").write_text(json.dumps(kept))

    return edit


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Edit:
    """Change the tensors."""

    def edit(path: Path) -> None:
        tensors = load_file(path / WHOLE)
        change(tensors)
        save_file(tensors, path / WHOLE, metadata={"format": "pt"})

    return edit


def write(name: str, content: str | bytes) -> Edit:
    """Put a file there."""
    data = content.encode() if isinstance(content, str) else content
    return lambda path: (path / name).write_bytes(data)


def remove(*names: str) -> Edit:
    """Take files away."""
    return lambda path: [(path / name).unlink() for name in names]


def only_bin(path: Path) -> None:
    torch.save(load_file(path / WHOLE), path / "pytorch_model.bin")
    (path / WHOLE).unlink()


def cut(path: Path) -> None:
    with (path / WHOLE).open("r+b") as file:
        file.truncate(5000)


def lose_a_shard(path: Path) -> None:
    sorted(path.glob("model-*.safetensors"))[1].unlink()


QUERY = "encoder.layer.1.attention.self.query.weight"
REFUSED: dict[str, tuple[dict[str, Any], Edit, list[str], str]] = {
    "a peft adapter": ({}, write("adapter_config.json", "{}"), [], "peft adapter.*merge it first"),
    "an adapter's tensors": (
        {},
        weights(lambda x: x.update({"encoder.layer.0.lora_A.weight": torch.ones(2, 2)})),
        [],
        "adapter's tensors.*merge it first",
    ),
    "bin files only": ({}, only_bin, [], r"holds no model.safetensors.*pytorch_model.bin"),
    "no weights": ({}, remove(WHOLE), [], r"holds no model.safetensors"),
    "a git-lfs pointer": ({}, write(WHOLE, "version https://git-lfs.github.com/spec/v1\noid s\n"),
                          [], "git-lfs pointer: run `git lfs pull`"),
    "cut weights": ({}, cut, [], "model.safetensors is cut short or damaged"),
    "no bytes of weights": ({}, write(WHOLE, ""), [], "model.safetensors is cut short or damaged"),
    "a missing shard": (
        {"shard": "20KB"}, lose_a_shard, [], r"lacks 1 of \d files"
    ),
    "a broken index": ({"shard": "20KB"}, write(SHARDS, "{"), [], "index.json is not readable"),
    "NaN": ({}, weights(lambda x: x[QUERY].__setitem__((3, 4), float("nan"))), [],
            r"bert\.encoder\.layer\.1\.attention\.self\.query\.weight holds NaN"),
    "infinity in fp16": (
        {"dtype": torch.float16},
        weights(lambda x: x["embeddings.LayerNorm.bias"].__setitem__(0, float("-inf"))),
        [], r"bert\.embeddings\.LayerNorm\.bias holds NaN or infinite",
    ),
    "integers": ({}, weights(lambda x: x.update({QUERY: x[QUERY].to(torch.int8)})), [],
                 f"{QUERY} as I8"),
    "a missing tensor": ({}, weights(lambda x: x.pop(QUERY)), [], "lacks 1 of the model's"),
    "half a pooler": ({}, weights(lambda x: x.pop("pooler.dense.bias")), [],
                      "lacks 1 of the model's"),
    "fewer layers than tensors": ({}, settings(num_hidden_layers=1), [], "has no place for"),
    "more layers than tensors": ({}, settings(num_hidden_layers=3), [], "lacks 16 of the model"),
    "another width": ({}, settings(intermediate_size=64), [],
                      r"has shape \(.*\), by its settings it should have"),
    "another architecture": ({"auto": AutoModelForMaskedLM}, settings(model_type="roberta"), [],
                             "of the architecture that config.json says"),
    "a broken config": ({}, write("config.json", "{"), [], "not a valid JSON"),
    "no config": ({}, remove("config.json"), [], "config.json"),
    "no model type": ({}, settings(model_type=None, architectures=None), [], "model_type"),
    "an unknown type": ({}, settings(model_type="grue"), [], "grue"),
    "remote code": ({}, settings(model_type="evil", auto_map={"AutoConfig": "evil.Config"}), [],
                    "never run here"),
    "remote code, random weights": (
        {}, settings(model_type="evil", auto_map={"AutoConfig": "evil.Config"}),
        ["model.pretrained=false"], "never run here",
    ),
    "a quantised model": ({}, settings(quantization_config={"quant_method": "bitsandbytes"}), [],
                          "quantised"),
    "an encoder-decoder": ({}, settings(model_type="bart"), [], "bart is an encoder-decoder"),
    "a strange decoder": ({}, settings(model_type="bloom"), [], "no anatomy for .*bloom"),
    "pictures": ({}, settings(model_type="vit"), [], "vit is no model that classifies text"),
    "a strange encoder": ({}, settings(model_type="mpnet"), [], "no anatomy for .*mpnet"),
    "is_decoder": ({}, settings(is_decoder=True), [], r"is_decoder: true.*is_decoder=false"),
    "an override unknown": ({}, str, ["+model.config.num_hiden_layers=1"],
                            "num_hiden_layers is unknown; did you mean 'num_hidden_layers'"),
    "an override's type": ({}, str, ["+model.config.num_hidden_layers=two"],
                           "num_hidden_layers=two.*expected int"),
    "an override of the outputs": ({}, str, ["+model.config.num_labels=7"], "not free to choose"),
    "heads that do not divide": ({}, str, ["+model.config.num_attention_heads=5"],
                                 "not a multiple of the number of attention heads"),
    "heads that do not divide, ELECTRA": (
        {"model_type": "electra", "embedding_size": 16}, str,
        ["model.pretrained=false", "+model.config.num_attention_heads=5"],
        "settings do not fit one another",
    ),
    "no layers": ({}, str, ["+model.config.num_hidden_layers=0"], "0 layers are none"),
    "too many layers": ({}, str, ["+model.config.num_hidden_layers=5"], "lacks 48 of the model"),
    "another hidden size": ({}, str, ["+model.config.hidden_size=64"], "has shape"),
    "an unknown activation": ({}, str, ["+model.config.hidden_act=softplush"], "softplush"),
    "a broken tokenizer": ({}, write("tokenizer.json", "{"), [], "model bert-base "),
    "no tokenizer.json": ({}, remove("tokenizer.json"), [], "tokenizer"),
    "no tokenizer": ({}, remove("tokenizer.json", "tokenizer_config.json"), [],
                     "vocabulary is missing"),
    "a table of positions": ({"max_position_embeddings": 24}, str, ["model.max_length=60"],
                             "exceeds the 24 positions of bert-base; set model.max_length=24"),
    "RoBERTa's positions": (
        {"model_type": "roberta", "type_vocab_size": 1, "max_position_embeddings": 26,
         "pad_token_id": 1},
        str, ["model.max_length=26"], "exceeds the 24 positions",
    ),
    "DistilBERT's positions": (DISTIL | {"max_position_embeddings": 24}, str,
                               ["model.max_length=60"], "exceeds the 24 positions"),
    "the tokenizer's own limit": ({"words": tokenizer(model_max_length=20)}, str,
                                  ["model.max_length=60"], "exceeds the 20 tokens"),
    "a tokenizer that is larger": ({"vocab_size": 300}, str, [],
                                   r"gives token \d+, but the embeddings of bert-base have 300"),
    "padding behind the embeddings": (
        {"words": tokenizer(pad_token="[NEW]")}, str, [], "gives token 613, but the embeddings"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_line(kind: str, folder: Folder) -> None:
    made, edit, overrides, words = REFUSED[kind]
    path = folder(**made)
    edit(path)
    fits = () if any("max_length" in x for x in overrides) else ("model.max_length=60",)
    with pytest.raises(UserError, match=words) as caught:
        prepared(path, "model=bert-base", *fits, *overrides)
    assert "\n" not in str(caught.value)


ACCEPTED: dict[str, tuple[dict[str, Any], Edit, str]] = {
    "a base model": ({}, str, "bert-base"),
    "another head of 3": (
        {"auto": AutoModelForSequenceClassification, "num_labels": 3}, str, "bert-base",
    ),
    "a head of the same size": (
        {"auto": AutoModelForSequenceClassification, "num_labels": 2}, str, "bert-base",
    ),
    "RoBERTa's head of the same size": (
        {"auto": AutoModelForSequenceClassification, "num_labels": 2, "model_type": "roberta"},
        str, "roberta-base",
    ),
    "tagging": ({"auto": AutoModelForTokenClassification, "num_labels": 5}, str, "bert-base"),
    "answering": ({"auto": AutoModelForQuestionAnswering}, str, "bert-base"),
    "masked words": ({"auto": AutoModelForMaskedLM}, str, "bert-base"),
    "RoBERTa's masked words": ({"auto": AutoModelForMaskedLM, "model_type": "roberta"}, str,
                               "roberta-base"),
    "ALBERT's masked words": ({"auto": AutoModelForMaskedLM, "model_type": "albert",
                               "embedding_size": 16}, str, "albert-base"),
    "shards": ({"shard": "20KB"}, str, "bert-base"),
    "bf16": ({"dtype": torch.bfloat16}, str, "bert-base"),
    "fp16": ({"dtype": torch.float16}, str, "bert-base"),
    "tuples": ({}, settings(return_dict=False, output_hidden_states=True, output_attentions=True),
               "bert-base"),
    "another problem": ({}, settings(problem_type="multi_label_classification"), "bert-base"),
    "one token type": ({"type_vocab_size": 1}, str, "bert-base"),
    "RoBERTa with BERT's tokenizer": (
        {"model_type": "roberta", "type_vocab_size": 1}, str, "roberta-base",
    ),
    "DistilBERT with BERT's tokenizer": (DISTIL, str, "distilbert"),
    "no padding token": ({"words": tokenizer(pad_token=None)}, str, "bert-base"),
    "a table that is larger": ({"vocab_size": 700}, str, "bert-base"),
    "remote code beside a known type": (
        {}, settings(auto_map={"AutoModel": "evil.Model"}), "bert-base",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ACCEPTED)
def test_accepted_and_the_head_is_drawn_anew(kind: str, folder: Folder) -> None:
    made, edit, model = ACCEPTED[kind]
    path = folder(**made)
    edit(path)
    one, again, other = (
        prepared(path, f"model={model}", "model.max_length=60", f"seed={seed}", "method=lora")
        for seed in (0, 0, 1)
    )
    assert torch.equal(logits(one), logits(again))
    assert logits(one).shape == (8, 2)
    assert logits(one).isfinite().all()
    base = dict(one.module.model.base_model.named_parameters())
    drawn = {name.partition(".")[2] for name in backbone.drawn_pooler(one.module.model)}
    for (name, mine), (_, theirs) in zip(
        one.module.model.named_parameters(), other.module.model.named_parameters(), strict=True
    ):
        below = name.partition(".")[2]
        fresh = (below not in base or below in drawn) and mine.ndim > 1
        assert torch.equal(mine, theirs) is not fresh, name
        assert mine.dtype == torch.float32
    assert one.module.backbone.fingerprint == other.module.backbone.fingerprint


def test_layers_may_be_left_out_by_an_override(folder: Folder) -> None:
    parts = prepared(folder(), "model=bert-base", "model.max_length=60",
                     "+model.config.num_hidden_layers=1")  # fmt: skip
    assert parts.module.backbone.sites.n_layers == 1


# --- from a run to its predictions and its export ------------------------------------------------

SHORT = ("task=builtin_paraphrase", "data.fraction=0.05", "budget=steps", "budget.steps=3",
         "evaluations=1", "model.max_length=60", "trainer.threads=1")  # fmt: skip
FOREIGN: dict[str, tuple[dict[str, Any], Edit, str, bool]] = {  # the bool: a pooler is drawn
    "masked words": ({"auto": AutoModelForMaskedLM}, str, "bert-base", True),
    "ALBERT's masked words": (
        {"auto": AutoModelForMaskedLM, "model_type": "albert", "embedding_size": 16},
        str, "albert-base", True,
    ),
    "another head": (
        {"auto": AutoModelForSequenceClassification, "num_labels": 3}, str, "bert-base", False,
    ),
    "RoBERTa with token types": (
        {"model_type": "roberta", "type_vocab_size": 1}, str, "roberta-base", False,
    ),
    "bf16": ({"dtype": torch.bfloat16}, str, "bert-base", False),
    "fp16, tuples, two labels a row": (
        {"dtype": torch.float16},
        settings(return_dict=False, output_hidden_states=True,
                 problem_type="multi_label_classification"),
        "bert-base", False,
    ),
}  # fmt: skip


def request(directory: Path, *overrides: str) -> RunSpec:
    directory.mkdir(parents=True, exist_ok=True)
    return RunSpec.of(composed(*overrides), directory, overrides, sweep="sweep")


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_run_is_what_it_predicts_and_exports(
    kind: str, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, edit, model, drawn = FOREIGN[kind]
    path = folder(**made)
    edit(path)
    run = tmp_path / "run"
    record = run_cell(run, f"model={model}", f"model.path={path}", "method=lora", *SHORT)
    assert (record.status, record.drawn_pooler) == ("ok", drawn)
    assert bool(record.params_pooler) is drawn
    tests = pq.read_table(run / predictions.FILE).column("scores").to_pylist()
    cfg = composed(f"model={model}", f"model.path={path}", *SHORT)
    _, splits, _ = rows_of(RunConfig.of(cfg))
    torch.manual_seed(5)  # what is restored does not depend on it
    again = inference.restore(run).logits(splits.test["test"].texts)
    torch.testing.assert_close(again, torch.tensor(tests))
    for target in ("merged", "peft"):
        if target == "peft":
            pytest.importorskip("peft")
        out = tmp_path / target
        assert "16 texts" in export(run, target, out)
        monkeypatch.chdir(tmp_path)
        names: dict[str, Any] = {}
        exec((out / "README.md").read_text().split("```python\n")[1].split("```")[0], names)
        assert names["logits"].dtype == torch.float32
        about = AutoConfig.from_pretrained(tmp_path / "merged")
        assert (about.problem_type, about.num_labels) == ("single_label_classification", 2)


@pytest.mark.parametrize("method", ["head", "bitfit", "layernorm", "lora", "full", "prefix"])
def test_a_drawn_pooler_trains_with_the_head(method: str, folder: Folder) -> None:
    path = folder(auto=AutoModelForMaskedLM)
    parts = prepared(path, "model=bert-base", "model.max_length=60", f"method={method}")
    plain = prepared(path, "model=bert-base", "model.max_length=60", "method=hft")
    start = {k: v.clone() for k, v in backbone.drawn_pooler(plain.module.model).items()}
    for name, value in backbone.drawn_pooler(parts.module.model).items():
        assert torch.equal(value, start[name]), "the same for every method"
    parts.method.tune(parts.module.backbone, seed=0)
    pooler = {id(p) for p in backbone.drawn_pooler(parts.module.model).values()}
    groups = parts.module.configure_optimizers().param_groups
    rates = {group["lr"] for group in groups for p in group["params"] if id(p) in pooler}
    assert rates == {parts.config.optim.head_lr}


def test_runs_with_a_drawn_pooler_share_a_pass(folder: Folder, tmp_path: Path) -> None:
    path = folder(auto=AutoModelForMaskedLM)
    lines = [("model=bert-base", f"model.path={path}", f"method={method}", f"seed={seed}", *SHORT)
             for method, seed in (("lora", 0), ("head", 1), ("bitfit", 1))]  # fmt: skip
    run_together([request(tmp_path / str(n), *line) for n, line in enumerate(lines)], most=3)
    for number, line in enumerate(lines):
        fused, alone = read(tmp_path / str(number)), run_cell(tmp_path / f"alone{number}", *line)
        assert (fused.status, fused.fused, fused.drawn_pooler) == ("ok", 3, True)
        assert fused.fingerprint == alone.fingerprint == read(tmp_path / "0").fingerprint
        ours, theirs = (
            load_file(tmp_path / d / delta.FILE) for d in (str(number), f"alone{number}")
        )
        assert ours.keys() == theirs.keys()
        assert "bert.pooler.dense.weight" in ours
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5)


def test_rows_to_predict_meet_the_same_limits(folder: Folder) -> None:
    """A token that no training row has is one line when it comes."""
    words = tokenizer()
    words.add_tokens(["zyzzyva"])
    parts = prepared(folder(words=words), "model=bert-base", "model.max_length=60")
    record: Any = SimpleNamespace(precision="32")
    run = inference.Restored(parts.config, record, parts.task, parts.module.model, words)
    assert run.logits((["the cat"], ["the dog"])).shape == (1, 2)
    with pytest.raises(UserError, match="rows: the tokenizer gives token 613, but the embeddings"):
        run.logits((["the zyzzyva"], ["the dog"]))


def test_a_foreign_language_is_told(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f'"{word}",{n % 2}\n' for n, word in enumerate(["русский текст"] * 40))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    rows_are = (f"task.train={tmp_path / 'rows.csv'}", "task.text=[text]", "task.label=label")
    cfg = composed(f"model.path={folder()}", "model.max_length=60", "task=custom", *rows_are)
    prepare(RunConfig.of(cfg))
    assert "50 % of the training rows' tokens are unknown" in caplog.text


@pytest.mark.parametrize("name", ["spm.model", "tokenizer.json", WHOLE, "config.json"])
def test_a_changed_file_is_another_cell(name: str, folder: Folder) -> None:
    path = folder()
    (path / "spm.model").write_bytes(b"old")
    model = {"path": str(path), "revision": "main"}
    before = identity.weights(model)
    (path / name).write_bytes(b"a file of another content")
    assert identity.weights(model) != before


def test_sentencepiece_alone_is_enough(folder: Folder) -> None:
    """As DeBERTa v3 lies on the hub: spm.model, and nothing else of a tokenizer."""
    path = folder(model_type="deberta-v2", type_vocab_size=0)
    remove("tokenizer.json")(path)
    settings = {"do_lower_case": False, "vocab_type": "spm"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.unk_id = 1, 3
    special = [("[PAD]", 3), ("[CLS]", 3), ("[SEP]", 3), ("[UNK]", 2)]
    words = [f"\u2581{word}" for word in ("the", "a", "cat", "dog", "sees")]
    plain = [(piece, 1) for piece in ("\u2581", *"abcdefghijklmnopqrstuvwxyz", *words)]
    for piece, kind in special + plain:
        model.pieces.add(piece=piece, type=kind, score=-12.0 if len(piece) == 1 else -1.0)
    (path / "spm.model").write_bytes(model.SerializeToString())
    parts = prepared(path, "model=deberta-v3-base", "model.max_length=60")
    assert logits(parts).isfinite().all()
    assert parts.encoded["train"].tokens.unknown_share < 0.1
