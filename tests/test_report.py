"""Records to tables: grouping, spread, failures."""

from statistics import stdev

from finegrid.record import Record
from finegrid.report.frame import frame
from finegrid.report.tables import markdown


def record(method: str, seed: int, test: float | None, **changes: object) -> Record:
    """A finished record, or a failed one where there is no score."""
    values: dict[str, object] = {
        "method": method, "task": "mrpc", "model": "tiny", "fraction": 0.3, "budget_unit": "epochs",
        "budget": 3.0, "seed": seed, "protocol": "holdout", "overrides": [], "test": test,
        "status": "failed" if test is None else "ok", "metric": "f1", "train_seconds": 2.0,
        "params_delta": 10, "params_head": 2, "params_pooler": 0, "delta_bytes": 48,
        "started": f"2026-01-0{seed + 1}",
    }  # fmt: skip
    return Record(**(values | changes))  # type: ignore[arg-type]


def test_mean_spread_and_failures() -> None:
    runs = [record("bitfit", 0, 0.8), record("bitfit", 1, 0.9), record("bitfit", 2, None),
            record("full", 0, 0.85)]  # fmt: skip
    text = markdown(frame(runs))
    assert f"0.8500 ± {stdev([0.8, 0.9]):.4f} (2, 1 failed)" in text
    assert "0.8500 ± ? (1)" in text
    assert text.index("| full") < text.index("| bitfit"), "baselines come first"


def test_protocols_budgets_and_weights_are_never_mixed() -> None:
    runs = [record("full", 0, 0.8), record("full", 1, 0.9, protocol="dev"),
            record("full", 2, 0.7, budget=5.0),
            record("full", 3, 0.6, pretrained=False),
            record("full", 4, 0.5, frozen_dropout=False)]  # fmt: skip
    assert len(frame(runs)) == 5


def test_a_retry_replaces_a_failure() -> None:
    runs = [record("full", 0, None, started="2026-02-01"), record("full", 0, 0.8)]
    (cells,) = frame(runs).values()
    assert [run.test for run in cells["full", 0.3].runs] == [0.8]
