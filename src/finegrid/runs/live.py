"""How far a run that trains has come: a small file in its directory, for whoever looks on."""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from finegrid.runs import layout
from finegrid.storage.files import content, whole

log = logging.getLogger(__name__)
LARGEST = 1 << 12  # bytes


@dataclass(frozen=True)
class LiveRun:
    """A run in the middle of its training."""

    step: int
    share: float  # of the budget
    elapsed: float  # seconds since the first step
    seconds: float  # of training alone; where runs share passes, this run's part
    examples: int
    tokens: int
    rows: int  # of training
    unit: str  # of the budget
    amount: float
    metric: str
    loss: float | None = None
    score: float | None = None  # of the last validation
    age: float = 0.0  # seconds since it was written; set by the reader

    @property
    def steps(self) -> int:
        """Steps in all, as far as the budget tells by now."""
        return max(self.step, math.ceil(self.step / self.share - 1e-6))

    @property
    def left(self) -> float:
        """Seconds of training to go, validations included, at the speed so far."""
        return max(0.0, self.elapsed * (1 - self.share) / self.share - self.age)

    def text(self) -> str:
        """One phrase for people."""
        parts = [f"step {self.step} / {self.steps}"]
        parts += [f"loss {self.loss:.4f}"] if self.loss is not None else []
        parts += [f"validation {self.metric} {self.score:.4f}"] if self.score is not None else []
        return ", ".join(parts)


def write(directory: Path, live: LiveRun) -> None:
    """Write the file whole, but not flushed to disk; a failure is no failure of the run."""
    try:
        with whole(directory / layout.LIVE) as draft:
            draft.write_text(json.dumps(asdict(live)), encoding="utf-8")
    except OSError as error:  # it may work the next time
        log.debug("%s", error)


def read(directory: Path, *, at: float | None = None) -> LiveRun | None:
    """What the file says, if there is a good one; `at` is now."""
    path = directory / layout.LIVE
    try:
        values = json.loads(content(path, LARGEST))
        age = max(0.0, (time.time() if at is None else at) - path.stat().st_mtime)
        live = LiveRun(**{item.name: values[item.name] for item in fields(LiveRun)} | {"age": age})
        numbers = [live.step, live.share, live.elapsed, live.seconds, live.examples, live.tokens]
        numbers += [live.rows, live.amount, live.loss or 0.0, live.score or 0.0]
        good = all(map(math.isfinite, numbers)) and live.share > 0 and live.elapsed >= 0
        return live if good and f"{live.unit}{live.metric}".isprintable() else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # none yet, or half of one: what is not known is not shown
