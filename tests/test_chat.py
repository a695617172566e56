"""model.chat_template: a row of a decoder as a user's turn by its tokenizer's own template."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import composed, run_cell
from transformers import AutoTokenizer

from finegrid.config import ModelConfig, RunConfig
from finegrid.data.tokenization import Tokeniser
from finegrid.errors import UserError
from finegrid.models import backbone
from finegrid.runs import identity
from finegrid.storage import paths
from finegrid.training.components import rows_of

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OWN = "model.chat_template=own"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped decoder with a chat template."""
    shutil.copytree(paths.model("builtin:tiny_llama"), tmp_path / "chatty")
    (tmp_path / "chatty/chat_template.jinja").write_text(CHATML)
    return tmp_path / "chatty"


def model(folder: Path, *overrides: str) -> ModelConfig:
    return RunConfig.of(composed("model=tiny_llama", f"model.path={folder}", *overrides)).model


def test_a_text_is_a_users_turn(folder: Path) -> None:
    plain, tokenizer = AutoTokenizer.from_pretrained(folder), backbone.tokenizer(model(folder, OWN))
    texts = ["The dog slept.", "A man saw <|endoftext|>"]
    found = tokenizer(texts, truncation=True, max_length=128)
    said = [[{"role": "user", "content": text}] for text in texts]
    shown = [plain.apply_chat_template(o, tokenize=False, add_generation_prompt=True) for o in said]
    assert found["input_ids"][0] == plain(shown[0]).input_ids
    assert [plain.decode(ids) for ids in found["input_ids"]] == shown
    assert plain.eos_token_id not in found["input_ids"][1], "the name of a token in a text is text"
    assert [len(mask) for mask in found["attention_mask"]] == [*map(len, found["input_ids"])]
    pair = tokenizer(["One."], ["Two."])["input_ids"]
    assert pair == [tokenizer("One.\nTwo.")["input_ids"]]


def test_of_a_long_text_the_turn_is_kept(folder: Path) -> None:
    tokenizer = backbone.tokenizer(model(folder, OWN))
    short, long = (tokenizer(["dog " * n], truncation=True, max_length=64) for n in (1, 200))
    assert len(long["input_ids"][0]) == 64
    assert long["input_ids"][0][-20:] == short["input_ids"][0][-20:]
    assert long.encodings[0].overflowing, "which tells that it was cut"


def test_refusals(folder: Path) -> None:
    def refused(words: str, *given: Any) -> None:
        with pytest.raises(UserError, match=words) as error:
            backbone.tokenizer(model(*given, OWN))
        assert "\n" not in str(error.value)

    refused("tiny_llama.*has no chat template; use none", paths.model("builtin:tiny_llama"))
    refused("leaves no room", folder, "model.max_length=20")
    with pytest.raises(UserError, match="is for decoders"):
        backbone.tokenizer(RunConfig.of(composed("model=tiny", OWN)).model)
    with pytest.raises(UserError, match="did you mean 'own'"):
        model(folder, "model.chat_template=on")
    (folder / "chat_template.jinja").write_text(CHATML + "{{ strftime_now('%d') }}")
    refused("names the day", folder)


def test_it_decides_tokens_and_the_cell_and_none_is_as_before(folder: Path) -> None:
    def cell(*overrides: str) -> str:
        from omegaconf import OmegaConf

        cfg = composed("model=tiny_llama", f"model.path={folder}", *overrides)
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        if not overrides:
            del plain["model"]["chat_template"]  # as of a version that had no choice
        return identity.cell(plain)

    assert cell() == cell("model.chat_template=none") != cell(OWN)
    load = backbone.tokenizer
    ids = []
    for own in ("none", "own"):
        one = model(folder, f"model.chat_template={own}")
        how: Any = {"max_length": 64, "load": lambda one=one: load(one), "chat_template": own}
        ids.append(Tokeniser(str(folder), "main", **how)([["A dog slept."]]).fields["input_ids"])
    assert len(ids[1]) > len(ids[0])


def test_kinds_that_make_their_own_tokens_are_refused(folder: Path) -> None:
    given = ("model=tiny_llama", f"model.path={folder}", OWN, "task=e2e_cleaned")
    with pytest.raises(UserError, match="generation makes its own prompts"):
        rows_of(RunConfig.of(composed(*given)))


def test_a_run_records_it(folder: Path, tmp_path: Path) -> None:
    given = ("experiment=smoke", "model=tiny_llama", f"model.path={folder}", "method=head", OWN)
    record = run_cell(tmp_path / "run", *given)
    assert (record.status, record.chat_template) == ("ok", "own")
