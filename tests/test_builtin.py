"""The builtin world: reproducible tasks, small checkpoints that load and have learned."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from finegrid.data.builtin import MODEL_DIR, load
from finegrid.data.builtin.documents import pairs
from finegrid.data.builtin.tasks import TASKS, sentences

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = tuple(TASKS)
LLAMA_DIR = MODEL_DIR.with_name("tiny_llama")


def digest(name: str) -> str:
    return hashlib.sha256(json.dumps(load(name), sort_keys=True).encode()).hexdigest()


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_glue_like(name: str) -> None:
    data = load(name)
    assert set(data) == {"train", "validation"}
    assert 1200 <= len(data["train"]) <= 1600
    assert 500 <= len(data["validation"]) <= 600
    texts = {"sentence"} if name == "builtin_acceptability" else {"sentence1", "sentence2"}
    for rows in data.values():
        assert [row["idx"] for row in rows] == list(range(len(rows)))
        assert all(set(row) == texts | {"label", "idx"} for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_sentence(name: str) -> None:
    data = load(name)
    train = {sentence for row in data["train"] for sentence in sentences(row)}
    held_out = {sentence for row in data["validation"] for sentence in sentences(row)}
    assert train.isdisjoint(held_out)


def test_same_rows_whatever_the_hash_seed_and_the_global_random_state() -> None:
    script = (
        "import hashlib, json, random; random.seed(5); from finegrid.data.builtin import load\n"
        f"for name in {NAMES!r}:\n"
        "    text = json.dumps(load(name), sort_keys=True)\n"
        "    print(hashlib.sha256(text.encode()).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT / "src")}
    out = subprocess.run(
        [sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True
    )
    assert out.stdout.split() == [digest(name) for name in NAMES]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("builtin_paraphrase", 0.6, 0.7), ("builtin_acceptability", 0.65, 0.75)],
)
def test_labels_are_unbalanced_as_told(name: str, low: float, high: float) -> None:
    for rows in load(name).values():
        labels = [row["label"] for row in rows]
        assert set(labels) == {0, 1}
        assert low <= sum(labels) / len(labels) <= high


def test_similarity_covers_the_whole_scale() -> None:
    for rows in load("builtin_similarity").values():
        labels = [row["label"] for row in rows]
        assert all(isinstance(label, float) and 0 <= label <= 5 for label in labels)
        points = [min(int(label), 4) for label in labels]
        assert min(points.count(point) for point in range(5)) > 0.1 * len(labels)


def test_an_unknown_task_is_named_with_the_candidates() -> None:
    with pytest.raises(ValueError, match="builtin_paraphrase"):
        load("builtin_nothing")


def test_the_data_need_no_torch() -> None:
    script = (
        "import sys, finegrid.data.builtin as b; b.load('builtin_paraphrase'); print(*sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    out = subprocess.run(
        [sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True
    )
    assert not {"torch", "numpy", "transformers"} & set(out.stdout.split())


@pytest.mark.parametrize(
    ("folder", "more"), [(MODEL_DIR, {"vocab.txt"}), (LLAMA_DIR, set())], ids=["tiny", "tiny_llama"]
)
def test_checkpoint_is_small_and_complete(folder: pathlib.Path, more: set[str]) -> None:
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(files.values()) <= 3_000_000
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert wanted | more | {"README.md"} == set(files)
    fingerprint = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert fingerprint in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_no_builtin_sentence_has_an_unknown_piece_or_is_cut(name: str, tokenizer) -> None:
    for rows in load(name).values():
        columns = [key for key in ("sentence", "sentence1", "sentence2") if key in rows[0]]
        coded = tokenizer(*([row[key] for row in rows] for key in columns))["input_ids"]
        assert all(tokenizer.unk_token_id not in ids for ids in coded)
        assert max(map(len, coded)) <= 64


def test_other_english_falls_to_pieces(tokenizer) -> None:
    pieces = tokenizer.tokenize("Xylophones weren't mentioned, were they? (1984)")
    assert len(pieces) > 10
    assert "[UNK]" not in pieces


def test_model_lacks_the_classifier_alone_and_loads_in_full_precision() -> None:
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        MODEL_DIR, num_labels=2, dtype=torch.float32, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert {name.rpartition(".")[0] for name in info["unexpected_keys"]} == {
        "cls.predictions", "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
    }  # fmt: skip
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.bert.pooler.dense.weight.std() > 0.03


def similar(model, tokenizer, first: str, second: str) -> float:
    """Cosine of the contextual vectors of two words in one frame."""
    vectors = []
    for word in (first, second):
        coded = tokenizer(f"The {word} bought a car.", return_tensors="pt")
        vectors.append(model(**coded).last_hidden_state[0, 2])
    return torch.cosine_similarity(vectors[0], vectors[1], dim=0).item()


@torch.no_grad()
def test_synonyms_are_nearer_than_mere_relatives(tokenizer) -> None:
    model = transformers.AutoModel.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    triples = [
        ("doctor", "physician", "judge"),
        ("lawyer", "attorney", "nurse"),
        ("thief", "robber", "singer"),
        ("teacher", "instructor", "cop"),
        ("boss", "manager", "writer"),
    ]
    for word, synonym, other in triples:
        near = similar(model, tokenizer, word, synonym)
        assert near > similar(model, tokenizer, word, other)


def test_pretraining_text_goes_on_for_ever_and_repeats() -> None:
    def head() -> list[tuple[str, str, int]]:
        stream = pairs("a seed")
        return [next(stream) for _ in range(50)]

    assert head() == head()
    assert {follows for _, _, follows in head()} == {0, 1}


@pytest.fixture(scope="module")
def llama():
    """The tiny Llama with its tokenizer, as transformers loads them."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        LLAMA_DIR, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval(), transformers.AutoTokenizer.from_pretrained(LLAMA_DIR)


def test_the_llama_is_as_real_ones_are(llama) -> None:
    model, tokenizer = llama
    config = model.config
    assert config.num_key_value_heads < config.num_attention_heads
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.unk_token_id is None
    assert tokenizer.convert_ids_to_tokens(tokenizer("A cop").input_ids) == ["A", "Ġcop"]
    text = "Übermut & 12 naïve \t xylophones"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize("name", NAMES)
def test_no_builtin_row_is_too_long_for_the_llama(name: str, llama) -> None:
    for rows in load(name).values():
        coded = llama[1](["\n".join(sentences(row)) for row in rows]).input_ids
        assert max(map(len, coded)) <= 64


@torch.no_grad()
def test_the_llama_has_learned_the_grammar(llama) -> None:
    """Words in their order are likelier than in another; a text is likelier told again."""
    model, tokenizer = llama

    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        return model(input_ids=ids, labels=ids, use_cache=False).loss.item()

    stream = pairs("never seen", follows=1.0)
    texts = [f"{first}\n{second}" for first, second, _ in (next(stream) for _ in range(40))]
    shuffled = [" ".join(reversed(text.split(" "))) for text in texts]
    assert sum(map(loss, texts)) / 40 < 1.6  # ln 4.1 is 1.41; random weights have ln 1024, 6.9
    assert all(loss(text) < loss(other) for text, other in zip(texts, shuffled, strict=True))
    first, second = "The doctor saw a car.", "The thief will sell two boxes."
    assert loss(f"{first}\n{first}") < loss(f"{first}\n{second}")


@pytest.mark.parametrize(
    ("script", "tells"), [("pretrain_tiny", "mlm_loss"), ("pretrain_tiny_llama", "perplexity")]
)
def test_pretraining_script_runs_and_repeats(
    script: str,
    tells: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    small = "--steps 3 --batch 8 --hidden 32 --layers 1 --heads 2 --sample 300"
    for run in ("one", "two"):
        out = str(tmp_path / run)
        monkeypatch.setattr(sys, "argv", [script, *small.split(), "--out", out])
        with torch.random.fork_rng(devices=[]):
            runpy.run_path(str(ROOT / f"scripts/{script}.py"), run_name="__main__")
    torch.set_num_threads(threads)
    assert tells in capsys.readouterr().out
    one, two = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("one", "two"))
    assert one == two
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    transformers.AutoModel.from_pretrained(tmp_path / "one")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "one")
