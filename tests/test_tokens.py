"""Tokens in flat arrays and what is cached of them: the same batches, whatever the files hold."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from conftest import composed
from huggingface_hub import constants
from safetensors.numpy import save_file

from finegrid.config import RunConfig, bind_task
from finegrid.data import builtin
from finegrid.data.batching import TokenizedDataset
from finegrid.data.examples import Examples
from finegrid.data.loading import load
from finegrid.data.splits import split
from finegrid.data.tokenization import Tokeniser, Tokens, identity
from finegrid.models import backbone
from finegrid.storage import cache, paths
from finegrid.training.components import prepare

PAIRS = (["a man sees the dog .", "the dog .", "a cat"], ["the dog sees a man .", "a man .", "x"])
REAL = pytest.param("mrpc", "minilm", marks=pytest.mark.realdata)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("FINEGRID_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tokeniser(max_length: int = 64, *, model: Path = builtin.MODEL_DIR) -> Tokeniser:
    """The tiny model's; with its own tokenizer."""
    own = RunConfig.of(composed()).model
    return Tokeniser(
        str(model), "main", max_length=max_length, load=lambda: backbone.tokenizer(own)
    )


def not_loaded() -> Any:
    """Stands for what is not to be needed."""
    raise AssertionError("it was loaded")


def warm(max_length: int = 64) -> Tokeniser:
    """The tiny model's, for kept texts alone."""
    return Tokeniser(str(builtin.MODEL_DIR), "main", max_length=max_length, load=not_loaded)


def same(left: Tokens, right: Tokens) -> bool:
    """Whether every array has the same kind and values."""
    arrays = [{**found.fields, "offsets": found.offsets} for found in (left, right)]
    assert [*arrays[0]] == [*arrays[1]]
    return left.padding == right.padding and all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(arrays[0].values(), arrays[1].values(), strict=True)
    )


def by_rows(
    rows: Examples, tokenizer: Any, max_length: int, index: Sequence[int]
) -> dict[str, Any]:
    """A batch as finegrid 0.3.0 made it: a list of small arrays, padded in a loop over rows."""
    encoded = tokenizer(*rows.texts, truncation=True, max_length=max_length)
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    fields = {name: [np.asarray(row, dtype=np.int64) for row in encoded[name]] for name in names}
    padding = {"input_ids": int(tokenizer.pad_token_id or 0), "token_type_ids": 0}
    lengths = np.asarray([len(row) for row in fields["input_ids"]])[index]
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    batch: dict[str, Any] = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
    for name, values in fields.items():
        padded = np.full(mask.shape, padding[name], dtype=np.int64)
        padded[mask] = np.concatenate([values[i] for i in index])
        batch[name] = torch.from_numpy(padded)
    labels = torch.from_numpy(rows.labels)[torch.as_tensor(index)]
    return batch | {"labels": labels, "real_tokens": int(lengths.sum())}


@pytest.mark.parametrize(
    ("task", "model"),
    [("builtin_paraphrase", "tiny"), ("builtin_acceptability", "tiny"),
     ("builtin_similarity", "tiny"), REAL],
)  # fmt: skip
@pytest.mark.parametrize("max_length", [12, 64])
def test_batches_are_what_they_were(task: str, model: str, max_length: int) -> None:
    cfg = composed(f"task={task}", f"model={model}", f"model.max_length={max_length}")
    config = RunConfig.of(cfg)
    found, tables = load(bind_task(cfg.task), config.data)
    rows = split(tables, found, config.data).validation
    tokenizer = backbone.tokenizer(config.model)
    where = backbone.locate(config.model)
    random = np.random.Generator(np.random.PCG64(0))
    indices = [
        range(16),
        [3],
        [5, 5, 2],
        *random.permutation(len(rows))[:96].reshape(3, 32).tolist(),
    ]
    for loader in (lambda: tokenizer, not_loaded):  # first new tokens, then kept ones
        kept = Tokeniser(where, "main", max_length=max_length, load=loader)(rows.texts)
        encoded = TokenizedDataset(rows, kept)
        for index in indices:
            batch, expected = encoded.batch(index), by_rows(rows, tokenizer, max_length, index)
            assert [*batch] == [*expected]
            assert batch.pop("real_tokens") == expected.pop("real_tokens")
            for name, value in expected.items():
                assert batch[name].dtype == value.dtype, name
                assert torch.equal(batch[name], value), name


class Plain:
    """A tokenizer that gives no token types."""

    pad_token_id = 7

    def __call__(self, *texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        """Two rows, whatever the texts."""
        return {"input_ids": [[1, 2, 3], [4]]}


def test_a_tokenizer_without_token_types_gives_none() -> None:
    rows = Examples((["a", "b"],), np.asarray([0, 1]), [0, 1])
    for loader in (Plain, not_loaded):
        found = Tokeniser(str(builtin.MODEL_DIR), "main", max_length=8, load=loader)(rows.texts)
        batch = TokenizedDataset(rows, found).batch([1, 0])
        assert batch["input_ids"].tolist() == [[4, 7, 7], [1, 2, 3]]
        assert "token_type_ids" not in batch


def test_kept_tokens_are_mapped_and_need_no_tokenizer(folder: Path) -> None:
    first = tokeniser()(PAIRS)
    (path,) = folder.rglob("*.*")
    again = warm()(PAIRS)
    assert same(first, again)
    if sys.platform == "linux":
        assert str(path) in Path("/proc/self/maps").read_text(), "read into memory, not mapped"


def test_a_second_run_loads_no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = composed("data.fraction=0.1")
    first = prepare(RunConfig.of(cfg))
    monkeypatch.setattr(backbone, "tokenizer", lambda model: not_loaded())
    again = prepare(RunConfig.of(cfg))
    for name, part in first.encoded.items():
        assert same(part.tokens, again.encoded[name].tokens), name


OTHERS = {
    "another order": (([*PAIRS[0][::-1]], [*PAIRS[1][::-1]]), 64),
    "one column": (PAIRS[:1], 64),
    "columns swapped": (PAIRS[::-1], 64),
    "a word in the next row": ((["a man sees the dog", " .the dog .", "a cat"], PAIRS[1]), 64),
    "fewer rows": ((PAIRS[0][:2], PAIRS[1][:2]), 64),
    "another length": (PAIRS, 32),
}


@pytest.mark.parametrize(("texts", "max_length"), OTHERS.values(), ids=OTHERS)
def test_other_texts_or_lengths_are_tokenised_anew(
    texts: tuple[list[str], ...], max_length: int
) -> None:
    tokeniser()(PAIRS)
    with pytest.raises(AssertionError, match="was loaded"):
        warm(max_length)(texts)


def test_another_tokenizer_or_library_tokenises_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokeniser()(PAIRS)
    other = shutil.copytree(builtin.MODEL_DIR, tmp_path / "other")
    same_files = Tokeniser(str(other), "main", max_length=64, load=not_loaded)
    same_files(PAIRS)  # where the files lie does not matter
    with (other / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("more\n")
    with pytest.raises(AssertionError, match="was loaded"):
        same_files(PAIRS)
    monkeypatch.setattr(tokenizers, "__version__", "0")
    with pytest.raises(AssertionError, match="was loaded"):
        warm()(PAIRS)


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def foreign(path: Path) -> None:
    save_file({"input_ids": np.arange(3, dtype=np.int32)}, path)


@pytest.mark.parametrize("damage", [shorter, empty, one_bit, foreign])
def test_a_damaged_file_is_written_again(damage: Any, folder: Path) -> None:
    expected = tokeniser()(PAIRS)
    (path,) = folder.rglob("*.*")
    whole = path.read_bytes()
    damage(path)
    assert same(tokeniser()(PAIRS), expected)
    assert path.read_bytes() == whole
    assert same(warm()(PAIRS), expected)


@pytest.mark.parametrize("place", ["a file", "the null device", "a folder of the file's name"])
def test_a_cache_that_cannot_be_written_is_no_error(
    place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tokeniser()(PAIRS)
    if place == "a folder of the file's name":
        (path,) = folder.rglob("*.*")
        path.unlink()
        path.mkdir()
    else:
        (tmp_path / "file").touch()
        root = os.devnull if place == "the null device" else str(tmp_path / "file")
        monkeypatch.setenv("FINEGRID_CACHE_DIR", root)
    assert same(tokeniser()(PAIRS), expected)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


WRITER = """
import sys, numpy
from pathlib import Path
from finegrid.storage import cache
for _ in range(200):
    cache.keep(Path(sys.argv[1]), {"ids": numpy.arange(100_000)})
"""


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "both.safetensors"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) for _ in range(2)]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            found = cache.read(path)
            assert found is not None, "half an entry was read"
            reads += 1
    assert [writer.wait() for writer in writers] == [0, 0]
    assert reads > 0
    assert [*path.parent.iterdir()] == [path], "nothing is left behind"


def test_a_tokenizer_of_the_hub_is_known_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert identity("some/model", "main") is None, "nothing was downloaded yet"
    assert identity("/no/such/folder", "main") is None
    commit = "0123456789" * 4
    snapshot = tmp_path / "models--some--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text(commit)
    assert identity("some/model", "main") == identity("some/model", commit)
    assert commit in str(identity("some/model", "main"))
    assert identity("some/model", "v2") is None


def test_texts_of_an_unknown_tokenizer_are_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert same(tokeniser(model=Path("some/model"))(PAIRS), tokeniser()(PAIRS))
    assert len([*folder.rglob("*.safetensors")]) == 1


@pytest.mark.parametrize("name", ["builtin_paraphrase", "builtin_similarity"])
def test_builtin_rows_are_kept(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, config = bind_task(composed(f"task={name}").task), RunConfig.of(composed())
    first = load(task, config.data)
    expected = builtin.load(name)
    assert first[1].train.to_pylist() == expected["train"]
    assert first[1].dev["validation"].to_pylist() == expected["validation"]
    with monkeypatch.context() as context:
        context.setattr(builtin, "load", lambda name: not_loaded())
        assert load(task, config.data) == first
    (path,) = folder.rglob("*.*")
    one_bit(path)
    assert load(task, config.data) == first, "damaged rows are made again"
    with monkeypatch.context() as context:
        context.setattr(paths, "code", lambda folder: [path])
        context.setattr(builtin, "load", lambda name: not_loaded())
        with pytest.raises(AssertionError, match="was loaded"):
            load(task, config.data)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEGRID_CACHE_DIR", "/one")
    assert cache.place("tokens/x") == Path("/one/tokens/x.safetensors")
    monkeypatch.delenv("FINEGRID_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache.place("tokens/x") == Path("/two/finegrid/tokens/x.safetensors")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache.place("tokens/x") == Path("/home/me/.cache/finegrid/tokens/x.safetensors")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no home, no such user
    cache.keep(cache.place("tokens/x"), {"ids": np.arange(3)})
    assert cache.read(cache.place("tokens/x")) is None
