"""The catalogue that `finegrid train --help` prints: each group of conf/, each option in a line."""

from pathlib import Path

from finegrid.config import UNITS
from finegrid.storage.paths import CONF

GROUPS = ("method", "task", "model", "head", "loss", "semi", "budget", "trainer", "logger", "race",
          "experiment")  # fmt: skip
HELP = """finegrid: which way of fine-tuning is best for this model, task, data and time?

  finegrid train method=bitfit task=mrpc model=minilm data.fraction=0.3 seed=1
  finegrid sweep method=full,bitfit,houlsby data.fraction=0.1,0.3,1.0 seed=0,1,2

{groups}
A head that starts pre-trained: head=pattern task=rte rows=32; one of class means: head=prototype
A loss for rare classes: loss=reweighted or loss=ldam
Afterwards: finegrid ensemble multirun/grid (the mean of seeds' logits), finegrid robustness
multirun/grid (test rows with misspelt words; --votes 5: smoothed)
Any value can be overridden: optim.lr=1e-4 data.batch_size=16 select=last; the end of a key will do
where it is one key's alone: epochs=3 batch_size=16, with method=lora rank=4
Rates found first, for every method with equal effort: tune.trials=8 (on validation rows)
Fewer cells for one answer: race=best stops methods that cannot be the best any more. Do not race
for claims on every fraction at once, for means to be published, or with fewer than five seeds
A budget in another unit: seconds=60 (units: {units})
A model of your own: model=/path/to/folder, or model=org/name of the hub
Your own rows: task=custom train=tickets.csv text=message label=team
Methods of your own package: --config-dir FOLDER allow=[mypackage]
The whole composed config: --cfg job. Hydra's own flags: --hydra-help
"""


def options(group: str) -> dict[str, str]:
    """Option -> its one-line description (the file's first comment), for a config group.

    Options in a folder of the group are named with it: `reproduce/lora2021`.
    """
    files = sorted((CONF / group).rglob("*.yaml"))
    names = (file.relative_to(CONF / group).with_suffix("").as_posix() for file in files)
    return {name: _headline(file) for name, file in zip(names, files, strict=True)}


def help_text() -> str:
    """The text of `--help`: every group, every option with its one line."""
    groups = [*GROUPS, *(["tuned"] if options("tuned") else [])]
    return HELP.format(groups="\n".join(map(_describe, groups)), units=", ".join(UNITS))


def _describe(group: str) -> str:
    found = options(group)
    width = max(map(len, found), default=0)
    lines = [f"  {name:<{width}}  {text}" for name, text in found.items()]
    return "\n".join([f"{group}=", *lines, ""])


def _headline(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    comments = (line.removeprefix("#").strip() for line in lines)
    first = next((line for line in comments if not line.startswith("@package")), "")
    return first.removeprefix(f"{file.stem}:").strip()
