"""The best peer's loop: many runs in one process, as a user of the Trainer writes it.

An evaluation and a checkpoint each epoch, the best one loaded at the end, one scoring of the test.
"""

import math
import time
from pathlib import Path
from typing import Any

from peers import trainer


def measure(spec: dict[str, Any], work: Path) -> dict[str, Any]:
    """CPU-seconds of one run without its test (`fit`), those of the test, and its scores."""
    began = time.process_time()
    made = trainer.make(
        spec,
        work,
        num_train_epochs=spec["epochs"],
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model=spec["metrics"][0],
    )
    loss = made.train().training_loss
    assert math.isfinite(loss), f"loss {loss}"
    fitted = time.process_time()
    test = trainer.encoded(spec, "test", made.processing_class, trainer.SETTINGS[spec["setting"]])
    found = made.predict(test).metrics
    return {
        "fit": fitted - began,
        "test": time.process_time() - fitted,
        "scores": {name: found[f"test_{name}"] for name in spec["metrics"]},
        "steps": made.state.global_step,
        "parameters": trainer.trainable(made),
    }
