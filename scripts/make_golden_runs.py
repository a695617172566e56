"""Write tests/golden/runs06: finished runs of finegrid 0.6, for tests/test_runs06.py to read.

Made once by the code of that version, which newer code must go on reading:

    git worktree add ../finegrid-0.6 36fb2c7
    cd ../finegrid-0.6
    PYTHONPATH=src python ../finegrid/scripts/make_golden_runs.py ../finegrid/tests/golden/runs06

Every run directory is what 0.6 wrote, without its log. Beside its files stands logits.json: what
0.6 computed from the stored delta for a few texts.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import finegrid
from finegrid.inference import restore

SHARED = (
    "budget=steps", "budget.steps=20", "data.fraction=0.05", "evaluations=2", "trainer.device=cpu",
    "trainer.precision=32", "trainer.threads=1",
)  # fmt: skip
RUNS = {
    "bitfit": ("method=bitfit",),
    "lora": ("method=lora", "method.rank=2"),
    "compacter": ("method=compacter",),
    "prompt": ("method=prompt",),
    "supermask": ("method=supermask",),  # one bit a weight, coded
    "mask_threshold": ("method=mask_threshold", "store=bfloat16"),
    "head": ("method=head", "frozen_dropout=false"),
    "similarity": ("method=ia3", "task=builtin_similarity"),  # a regression
}
FILES = ("record.json", "delta.safetensors", "predictions.parquet", ".hydra/config.yaml")
TEXTS = (
    ["the cat sees a dog .", "a bird sings .", "the old man reads a long book ."],
    ["a dog is seen by the cat .", "the bird does not sing .", "a book is read ."],
)


def train(name: str) -> Path:
    """Train one run in a process of its own, by a path that names no machine."""
    directory = Path("multirun/runs06") / name
    words = ["train.py", *RUNS[name], *SHARED, f"hydra.run.dir={directory}"]
    subprocess.run([sys.executable, *words], check=True)
    return directory


def keep(directory: Path, target: Path) -> None:
    """Copy a run's files, and write beside them what its model computes."""
    for name in FILES:
        path = target / directory.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(directory / name, path)
    logits = restore(directory).logits(TEXTS).tolist()
    text = json.dumps({"texts": TEXTS, "logits": logits}, indent=1)
    (target / directory.name / "logits.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Train all of them and keep them in the directory that the command line names."""
    if not finegrid.__version__.startswith("0.6."):
        raise SystemExit(f"this is finegrid {finegrid.__version__}; run it with the code of 0.6")
    for name in RUNS:
        keep(train(name), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
