"""A decoder's texts: pairs, empty ones, names of special tokens; a run on such a model."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import composed, run_cell
from safetensors.torch import load_file
from test_models import SMALL
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from finegrid.config import RunConfig, to_plain
from finegrid.data.tokenization import encode
from finegrid.errors import UserError
from finegrid.export import export
from finegrid.models import backbone
from finegrid.runs import delta, identity
from finegrid.training.components import prepare
from finegrid.training.module import predict

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a byte-level tokenizer whose only special token ends a text."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet)
    words.train_from_iterator(["the dog sees the man", "a man sees a dog"], trainer)
    path = tmp_path_factory.mktemp("decoder")
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END).save_pretrained(path)
    config = LlamaConfig(**SMALL | {"vocab_size": 300, "pad_token_id": None, "eos_token_id": 0})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def model(folder: Path, *overrides: str) -> Any:
    given = ("model=bert-base", f"model.path={folder}", "model.max_length=60")
    return RunConfig.of(composed(*given, *overrides)).model


def ids(folder: Path, *columns: list[str], settings: tuple[str, ...] = ()) -> list[list[int]]:
    tokens = encode(columns, backbone.tokenizer(model(folder, *settings)), 60)
    flat, ends = tokens.fields["input_ids"].tolist(), tokens.offsets.tolist()
    return [flat[start:stop] for start, stop in pairwise(ends)]


def test_two_texts_are_one_with_a_separator(folder: Path) -> None:
    pairs = (["a dog", "the man"], ["a man", "the dog"])
    assert ids(folder, *pairs) == ids(folder, ["a dog\na man", "the man\nthe dog"])
    other = ids(folder, *pairs, settings=("model.separator=' | '",))
    assert other == ids(folder, ["a dog | a man", "the man | the dog"])


def test_an_encoder_takes_no_separator() -> None:
    tiny = RunConfig.of(composed("model=tiny", "model.separator=x")).model
    with pytest.raises(UserError, match=r"model\.separator is for decoders"):
        backbone.tokenizer(tiny)


def test_an_empty_text_has_one_token(folder: Path) -> None:
    assert ids(folder, ["", "a dog", ""])[::2] == [[0], [0]]
    tokenizer = backbone.tokenizer(model(folder))
    assert tokenizer("")["input_ids"] == [0]
    assert tokenizer("", add_special_tokens=False)["input_ids"] == []


def test_a_special_tokens_name_is_text(folder: Path) -> None:
    (found,) = ids(folder, [f"a dog{END}"])
    assert 0 not in found
    tokenizer = backbone.tokenizer(model(folder))
    assert tokenizer.decode(found) == f"a dog{END}"
    assert 0 in tokenizer(f"a dog{END}", add_special_tokens=False)["input_ids"]


def test_padding_is_the_end_of_text_where_there_is_no_other(folder: Path) -> None:
    assert encode((["a"],), backbone.tokenizer(model(folder)), 60).padding == 0


def test_the_tokenizer_saves_under_its_name(folder: Path, tmp_path: Path) -> None:
    backbone.tokenizer(model(folder)).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a dog")["input_ids"] == ids(folder, ["a dog"])[0]


def test_the_separator_is_part_of_a_cell_where_it_separates() -> None:
    def cell(*overrides: str) -> str:
        return identity.cell(to_plain(composed("model=gpt2", *overrides)))

    pair, single = "task=builtin_paraphrase", "task=builtin_acceptability"
    assert cell(pair) == cell(pair, "model.separator=null")
    assert cell(pair) != cell(pair, "model.separator=x")
    assert cell(single) == cell(single, "model.separator=x")


GIVEN = ("experiment=smoke", "model=bert-base", "model.max_length=60", "task=builtin_paraphrase",
         "trainer.threads=1")  # fmt: skip


@pytest.mark.parametrize(
    ("method", "to"),
    [("lora", "merged"), ("lora", "peft"), ("ia3", "peft"), ("layernorm", "peft"),
     ("bitfit_added", "merged")],
)  # fmt: skip
def test_an_export_is_read_as_the_run_is(
    method: str, to: str, folder: Path, tmp_path: Path
) -> None:
    """By transformers and peft, which look for the padding's id."""
    record = run_cell(tmp_path / "run", *GIVEN, f"model.path={folder}", f"method={method}")
    assert record.status == "ok"
    answer = export(tmp_path / "run", to, tmp_path / "out")
    assert "loaded back" in str(answer)


def test_a_prompt_on_a_decoder_is_none_of_pefts(folder: Path, tmp_path: Path) -> None:
    run_cell(
        tmp_path / "run", *GIVEN, f"model.path={folder}", "method=prompt", "model.max_length=50"
    )
    with pytest.raises(UserError, match="peft reads a decoder at the padding"):
        export(tmp_path / "run", "peft", tmp_path / "out")


def test_a_run_on_a_decoder(folder: Path, tmp_path: Path) -> None:
    """And its scores do not depend on the size of a batch."""
    given = (*GIVEN, f"model.path={folder}", "method=lora")
    record = run_cell(tmp_path / "run", *given)
    assert record.status == "ok"
    assert record.separator == "\n"
    made = prepare(RunConfig.of(composed(*given)))
    rows = made.encoded["test"]
    one, many = (predict(made.module.model, rows, batch_size=size) for size in (1, 32))
    torch.testing.assert_close(one, many, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["tiny", "decoder"])
def test_gradient_checkpointing_is_the_same_cell_and_result(
    model: str, folder: Path, tmp_path: Path
) -> None:
    where = ["model=tiny"] if model == "tiny" else [f"model.path={folder}"]
    one, two = (
        run_cell(tmp_path / name, *GIVEN, *where, "method=layernorm",
                 f"trainer.gradient_checkpointing={name}")
        for name in ("false", "true")
    )  # fmt: skip
    assert (one.gradient_checkpointing, two.gradient_checkpointing) == (False, True)
    assert one.cell == two.cell
    assert (one.test, one.validation) == (two.test, two.validation)
    mine, theirs = (load_file(tmp_path / name / delta.FILE) for name in ("false", "true"))
    for key, value in mine.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-4, atol=1e-6)
