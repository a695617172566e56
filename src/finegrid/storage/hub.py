"""The Hugging Face hub: offline mode where it cannot be reached, and what its cache holds."""

import logging
import os
import re
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

COMMIT = re.compile(r"[0-9a-f]{40}")
PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@cache
def go_offline_if_unreachable() -> None:
    """Where the hub cannot be reached, put its client into offline mode: only its cache is read.

    Call before anything is asked of the hub. Behind a proxy the client finds its own way.
    """
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if constants.HF_HUB_OFFLINE or any(os.environ.get(name) for name in PROXIES):
        return
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((str(address.hostname), port), timeout=5).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True


def commit(repository: str, revision: str) -> str | None:
    """The commit that a revision stands for in the hub client's cache; None if it is not there."""
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, "config.json", revision=revision)
    except errors.HFValidationError:  # a path, where nothing lies
        return None
    return Path(found).parent.name if isinstance(found, str) else None


def data_commit(dataset: Mapping[str, Any]) -> str | None:
    """The commit that a data set was loaded from; None: unknown, or no data set of the hub.

    `datasets` names the folder of its tables in its cache by the commit.
    """
    for split in dataset.values():
        for file in split.cache_files:
            if COMMIT.fullmatch(name := Path(file["filename"]).parent.name):
                return name
    return None


WAYS_OUT = (
    "Ways out: go online; point {variable} at a local copy; "
    "or use task=builtin_paraphrase model=tiny, which need no files"
)
