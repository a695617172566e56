"""A peer's whole run: `python -m peers.trainer_cell SPEC` trains, evaluates each epoch, scores.

SPEC is JSON: what `peers.rows` says of the task, and method, setting, epochs, batch, seed and lr.
Prints the last epoch's scores of the dev set. It saves nothing.
"""

import json
import math
import resource
import sys
import tempfile
from pathlib import Path

from peers import trainer


def main() -> None:
    """Run what the argument says."""
    spec = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        made = trainer.make(
            spec, Path(work), num_train_epochs=spec["epochs"], eval_strategy="epoch"
        )
        loss = made.train().training_loss
    assert math.isfinite(loss), f"loss {loss}"
    evaluations = [entry for entry in made.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == spec["epochs"]
    found = {name: evaluations[-1][f"eval_{name}"] for name in spec["metrics"]}
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = {"parameters": trainer.trainable(made), "memory": peak, "scores": found}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
