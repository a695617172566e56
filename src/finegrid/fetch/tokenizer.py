"""The tokenizer of a GGUF file, repaired where transformers builds another than its authors."""

import json
from pathlib import Path
from typing import Any

UNWANTED = ("is_local", "local_files_only")  # of the machine that it was converted on


def convert(file: Path, folder: Path, positions: int) -> None:
    """Write the tokenizer that a GGUF file holds into a folder."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)
    _rewrite(folder / "tokenizer.json", split_digits)
    _rewrite(folder / "tokenizer_config.json", lambda settings: settled(settings, positions))


def split_digits(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Add the splitting of digits, which the GGUF names (`smollm`) and transformers leaves out."""
    digits = {"type": "Digits", "individual_digits": True}
    bytewise = tokenizer["pre_tokenizer"]
    return tokenizer | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, bytewise]}}


def settled(settings: dict[str, Any], positions: int) -> dict[str, Any]:
    """The settings with the longest text's tokens, without what only this machine knows."""
    kept = {name: value for name, value in settings.items() if name not in UNWANTED}
    return kept | {"model_max_length": positions}


def _rewrite(file: Path, change: Any) -> None:
    content = change(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
