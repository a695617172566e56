"""The notebooks of the tutorials run from the first cell to the last, and hold what came out."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))
NIGHTLY = {"comparison": pytest.mark.nightly}  # it trains for long
CELLS = """
import json, sys
for source in json.load(open(sys.argv[1], encoding="utf-8")):
    first, _, rest = source.partition("\\n")
    if first.startswith("%%writefile "):
        open(first.split()[1], "w", encoding="utf-8").write(rest)
    else:
        exec(source)
assert eval(sys.argv[2]), sys.argv[2]
"""
ENDS = {  # what holds after the last cell
    "comparison": "records() == before and len(again.runs) == 9 and best.record.method == 'full'",
    "own_method": "losses[-1] < losses[0] / 2 and torch.equal(logits(loaded), expected)"
    " and torch.allclose(logits(plain), expected, atol=1e-6)",
}


def cells(notebook: Path) -> list[dict[str, Any]]:
    """The cells with code."""
    every = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in every if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_holds_what_came_out(notebook: Path) -> None:
    counts = [cell["execution_count"] for cell in cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    stored = json.dumps([cell["outputs"] for cell in cells(notebook)])
    assert '"error"' not in stored
    assert "data" in stored
    assert not re.search(r"/(home|root|work|tmp|Users|usr)/", stored)


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook",
    [pytest.param(path, marks=NIGHTLY.get(path.stem, ())) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_runs_from_the_first_cell_to_the_last(notebook: Path, tmp_path: Path) -> None:
    sources = tmp_path / "cells.json"
    sources.write_text(json.dumps(["".join(cell["source"]) for cell in cells(notebook)]))
    command = [sys.executable, "-c", CELLS, str(sources), ENDS[notebook.stem]]
    result = subprocess.run(
        command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
