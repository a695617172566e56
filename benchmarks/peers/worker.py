"""A contender's process: `python -m peers.worker SIDE` answers one request a line until its end.

SIDE is `trainer`, `loop`, `ours` or `gauge`. Requests and answers are JSON; whatever else a library
prints goes to stderr.
"""

import gc
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE, TRIES = 2048, 5


def main() -> None:
    """Answer requests."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    side = sys.argv[1]
    measure = gauge if side == "gauge" else importlib.import_module(f"peers.{side}").measure
    _set_threads()
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as work:
            answer = measure(json.loads(line), Path(work))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        gc.collect()  # Lightning's parts refer to one another, and the next round needs the room


def gauge(spec: dict[str, Any], work: Path) -> dict[str, float]:
    """GFLOP a second of one square matrix product, and how busy the machine is.

    bf16 is left out where it is emulated: a product would take minutes.
    """
    import torch

    found = {"load": os.getloadavg()[0]}
    for name in ("float32", "bfloat16")[: 1 + spec["fast_bf16"]]:
        square = torch.rand(SIZE, SIZE).to(getattr(torch, name))
        seconds = []
        for _ in range(1 + TRIES):
            began = time.process_time()
            square @ square
            seconds.append(time.process_time() - began)
        found[name] = 2 * SIZE**3 / statistics.median(seconds[1:]) / 1e9
    return found


def _set_threads() -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


if __name__ == "__main__":
    main()
