"""Which training times may be held against one another: of runs alone, on machines of one speed."""

from collections.abc import Iterator

import pandas as pd

from finegrid.report.load.caveats import counted, groups, some

# CPU seconds a second below which a run had no core of its own: of one thread, of each of many
ONE, MOST = 0.8, 0.4
ALIKE = 1.25  # times the FLOP/s of another machine, measured by one product of matrices


def own_seconds(runs: pd.DataFrame) -> pd.Series:
    """Whether each run's seconds and memory are its own: no passes shared, no core taken away."""
    return ~(_fused(runs) | _disturbed(runs))


def alike(runs: pd.DataFrame, first: pd.Series) -> pd.Series:
    """Whether the seconds of each row of cells may be held against those of `first`, one of them.

    A machine whose speed was not measured (`matmul_rate`) counts as alike.
    """
    ratio = (runs["matmul_rate"] / first["matmul_rate"]).fillna(1.0)
    both: pd.Series = runs["own_seconds"].eq(True) & ratio.between(1 / ALIKE, ALIKE)
    return both & bool(first["own_seconds"])


def notes(runs: pd.DataFrame) -> Iterator[str]:
    """What forbids to compare seconds, in words."""
    fine = runs[runs["status"].eq("ok")]
    if (disturbed := _disturbed(runs)).any():
        slowed = runs[disturbed]
        share = slowed["train_cpu_seconds"].sum() / slowed["train_seconds"].sum()
        yield (
            f"Training times not to be compared: {counted(len(slowed), 'run')} shared the cores "
            f"with other work ({share:.2g} CPU seconds a second): {_named(slowed)}."
        )
    if (fused := _fused(fine)).any():
        yield (
            f"Training times and memory not to be compared: {counted(int(fused.sum()), 'run')} "
            f"shared passes, whose costs were divided: {_named(fine[fused])}."
        )
    for (task, precision), rows in groups(fine, "task", "precision"):
        rates = rows.groupby("method", observed=True)["matmul_rate"].mean().dropna() / 1e9
        if rates.max() > ALIKE * rates.min():
            yield (
                f"Training times on {task} (precision {precision}) come from machines of unlike "
                f"speed: from {rates.min():,.0f} GFLOP/s ({rates.idxmin()}) to "
                f"{rates.max():,.0f} ({rates.idxmax()})."
            )


def _fused(runs: pd.DataFrame) -> pd.Series:
    return runs["fused"].fillna(1) > 1


def _disturbed(runs: pd.DataFrame) -> pd.Series:
    """Whether a run on CPU had to share its cores: alone it keeps one busy, and most of others."""
    least = (MOST * runs["threads"].fillna(1)).clip(lower=ONE) * runs["train_seconds"]
    on_cpu = runs["device"].astype(str).str.startswith("cpu")
    return on_cpu & (runs["train_cpu_seconds"] < least)


def _named(runs: pd.DataFrame) -> str:
    return some(
        f"{method} on {task} ({len(g)})" for (method, task), g in groups(runs, "method", "task")
    )
