"""Peers against finegrid on the same rows, alternating in one call.

python benchmarks/peers.py step --task mrpc,cola,stsb --method bitfit,lora,houlsby,full --rounds 3
python benchmarks/peers.py step --model smollm2-135m-instruct-q4 --peers best_sdpa --dev 64
python benchmarks/peers.py cell --task cola --fraction 0.02 --method bitfit
python benchmarks/peers.py grid --task mrpc --peer-sample 1

`step`: rows a CPU-second of training and of evaluation. `cell`: a run from command to score, in a
fresh process. `grid`: 18 cells on two cores. Each prints Markdown; `--into` a page such as
docs/explanation/performance.md
puts it there instead. Peers are transformers' Trainer, peft and, with `--adapters-python`,
adapters.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from peers import cell, grid, page, step  # the package beside this file

COMMANDS: dict[str, Callable[[argparse.Namespace], str]] = {
    "step": step.table,
    "cell": cell.table,
    "grid": grid.table,
}


def main() -> None:
    """Measure, then print the tables or put them in their page."""
    given = parsed()
    text = COMMANDS[given.command](given)
    command = page.command_line(sys.argv)
    if given.into is None:
        print(text)
    else:
        page.replace(Path(given.into), f"{given.command} {given.label}".strip(), command, text)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--model", default="minilm")
    every.add_argument("--batch", type=int, default=32)
    every.add_argument("--peers", type=words, default=["default", "best"], help="and grouped")
    every.add_argument(
        "--ours", action="append", help="finegrid's overrides, a variant; may be given repeatedly"
    )
    every.add_argument("--adapters-python", help="interpreter that has adapters and accelerate")
    every.add_argument("--into", help="page to put the tables in")
    every.add_argument("--label", default="", help="which of the page's tables of that command")
    for name, make in (("step", _step), ("cell", _cell), ("grid", _grid)):
        make(commands.add_parser(name, parents=[every]))
    given = parser.parse_args()
    given.ours = given.ours or [""]
    return given


def words(text: str) -> list[str]:
    """Parts between commas."""
    return text.split(",")


def _step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", type=words, default=["mrpc", "cola", "stsb"])
    parser.add_argument("--method", type=words, default=["bitfit", "lora", "houlsby", "full"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of a round: one epoch of its rows")
    parser.add_argument("--dev", type=int, help="rows of the dev set to evaluate; all if not given")
    parser.add_argument("--threads", type=int, default=1)


def _cell(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", default="cola")
    parser.add_argument("--method", default="bitfit")
    parser.add_argument("--fraction", default="0.02")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)


def _grid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--method", type=words, default=["bitfit", "lora", "houlsby"])
    parser.add_argument("--fraction", type=words, default=["0.02", "0.05"])
    parser.add_argument("--seed", type=words, default=["0", "1", "2"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", type=words, default=["2x1", "1x2"], help="processes x threads")
    parser.add_argument(
        "--peer-sample", type=int, help="seeds that peers really run; the rest is extrapolated"
    )


if __name__ == "__main__":
    main()
