"""Runs as one table, sorted into rankings: groups of runs that may be compared with one another."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from finegrid.errors import UserError, nearest, printable, require
from finegrid.report.load import caveats, races, records, timing, variants
from finegrid.report.load.races import Key, Raced
from finegrid.runs import layout
from finegrid.runs.record import Record, read
from finegrid.runs.settings import older

METHOD_ORDER = ("full", "head")  # the baselines come first, the methods after them by name
TABLE = ["setting", "task", "budget_unit", "budget"]  # one table: methods by fractions
RANKING = [*TABLE, "fraction"]  # methods compared with one another, paired by seed
CELL = [*RANKING, "method"]
OF_TRAINING, OF_TEST = ["train_hash", "validation_hash"], ["test_hash", "metric"]
SAME = [*OF_TRAINING, *OF_TEST]  # within a ranking
PARQUET = "runs.parquet"  # of a report: its runs as one table
BY_SEED = "by seed"  # the fingerprint of random weights, which every seed draws anew
UNKNOWN = "unknown"
MIXED = "mixed"
UNASKED = ("precision", "version", "fingerprint")  # fields of how a run was made: in no name


@dataclass(frozen=True)
class Setting:
    """What must be equal for numbers to stand in one ranking, besides task, budget and rows.

    A field reads `mixed` where --mix lets it differ.
    """

    model: str
    pretrained: bool | str
    head: str
    loss: str
    semi: str
    protocol: str
    validation_from: str
    select: str
    frozen_dropout: bool | str
    kernels: bool | str
    precision: str
    version: str  # of finegrid
    fingerprint: str  # of the backbone's weights as loaded


# fields of `Setting` that older runs do not have
LATER = ("kernels", "validation_from", "head", "loss", "semi")
ABSENT = ("positive", "subset_seed", "rows_asked")  # other columns that a frame may lack
FIELDS = [item.name for item in fields(Setting)]


@dataclass(frozen=True)
class Results:
    """Runs in rankings."""

    runs: pd.DataFrame  # a row a run, see `load`; `setting` is an index into `settings`
    settings: tuple[Setting, ...]
    notes: tuple[str, ...] = ()  # for the reader: what is refused, apart, missing, failed, left out
    races: Mapping[Key, Raced] = field(default_factory=dict)  # of the rankings that were raced


def read_records(directory: Path) -> list[Record]:
    """Every record below a directory.

    Raises:
        UserError: if there is none, or one is unreadable.
    """
    return [read(Path(run)) for run in _below(directory)]


def load(paths: Iterable[Path], *, tell: Callable[[int], None] = lambda done: None) -> pd.DataFrame:
    """A row a run of all below some directories, or of a report's `runs.parquet` or directory.

    A run that is found in several of them, as its cell and the time of its start tell, counts once.
    Columns: the scalar fields of a record, `directory`, `overrides`, `version`, those of
    `races.COLUMNS` and `<split>/<metric>`. A record that is not readable is a row of status
    `unreadable`. Tuning trials are left out; `attrs["trials"]` is their number, `attrs["races"]`
    notes on races that are not readable. `tell` hears how many are read.

    Raises:
        UserError: if there is no run, or all are trials, which have no test score.
    """
    rows: list[dict[str, Any]] = []
    stored, trials = [], 0
    for path in paths:
        if (table := _table(path)) is not None:
            stored.append(_stored(table))
            continue
        for row in map(records.row, _below(path)):
            if row["trial"] is None:
                rows.append(row)
            trials += row["trial"] is not None
            tell(len(rows))
    read, notes = races.marked(records.frame(rows)) if rows else (None, [])
    frames = [frame for frame in (read, *stored) if frame is not None]
    if not frames:
        raise UserError("these runs are tuning trials; finegrid tune reads them")
    runs = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    known = runs[["cell", "started"]].astype(object).replace("", None)
    again = known.duplicated() & known.notna().all(axis=1)
    runs = runs[~again].reset_index(drop=True) if again.any() else runs
    runs.attrs = {"trials": trials, "races": notes}
    return runs


def results(directories: Iterable[Path], *, mix: Collection[str] = ()) -> Results:
    """The runs below some directories, in rankings."""
    return gather(load(directories), mix=mix)


def gather(runs: pd.DataFrame, *, mix: Collection[str] = ()) -> Results:
    """Runs in rankings: like with like, the data the same, a seed once.

    Args:
        runs: as `load` gives them.
        mix: fields of `Setting` that may differ within a ranking. Methods are named by what then
            differs in what was asked for (`full model=minilm`).

    Raises:
        UserError: if `mix` names another field, or no run can be placed.
    """
    for name in mix:
        if name not in FIELDS:
            raise UserError(f"--mix {name} is no field of a setting; {nearest(name, FIELDS)}")
    notes = [*caveats.trials(runs.attrs.get("trials", 0)), *runs.attrs.get("races", ())]
    runs, lost = _placed(runs)
    runs, settings = _settings(runs, mix)
    runs["task"] = variants.tasks(runs, RANKING, SAME)
    runs["method"] = variants.named(runs, RANKING)
    refused = _on_other_rows(runs)
    notes += [*caveats.unplaced(lost), *caveats.apart(settings)]
    notes += caveats.refused(runs[refused], RANKING)
    tries = int((~refused).sum())
    runs = _once(runs[~refused])
    notes += [*caveats.earlier(tries - len(runs), mix), *caveats.experiments(runs, TABLE)]
    notes += caveats.own_rows(runs, RANKING)
    raced = races.by_ranking(runs, RANKING)
    notes += [*caveats.ends(runs), *timing.notes(runs), *caveats.missing(missing(runs, raced))]
    notes += [*caveats.spared(raced), *caveats.exploratory(raced)]
    return Results(runs, settings, tuple(map(printable, notes)), raced)


def missing(runs: pd.DataFrame, raced: Mapping[Key, Raced] | None = None) -> pd.DataFrame:
    """The runs that a table lacks: each of its methods at each fraction with each of its seeds.

    Returns the columns of `CELL` and `seed`. A seed belongs to a fraction if any method has it, and
    is not needed of a method that a race has stopped before.
    """
    methods = runs[[*TABLE, "method"]].drop_duplicates()
    wanted = methods.merge(runs[[*RANKING, "seed"]].drop_duplicates(), on=TABLE)
    present = runs[[*CELL, "seed"]].assign(present=True)
    every = wanted.merge(present, on=[*CELL, "seed"], how="left")
    lacks = every.loc[every["present"].isna(), [*CELL, "seed"]]
    if raced:
        lacks = lacks[races.needed(lacks, runs, raced)]
    return lacks.reset_index(drop=True)


def ordered(methods: Collection[str]) -> list[str]:
    """The baselines and their variants, then the other methods by name."""
    return sorted(set(methods), key=_rank)


def _rank(method: str) -> tuple[int, str]:
    name = method.partition(" ")[0]
    return METHOD_ORDER.index(name) if name in METHOD_ORDER else len(METHOD_ORDER), method


def _table(path: Path) -> Path | None:
    """The table at a path, or in a directory without runs, such as a report; None: there is none.

    A file beside runs stands for them, so it is not read with them.
    """
    if path.suffix == ".parquet" and not path.is_dir():
        return path
    inside = path / PARQUET
    return inside if inside.is_file() and not any(layout.run_directories(path)) else None


def _below(directory: Path) -> list[str]:
    if not directory.is_dir():
        raise UserError(f"no such directory: {directory}")
    directories = [str(path) for path in layout.run_directories(directory)]
    if not directories:
        raise UserError(
            f"no {layout.RECORD} below {directory}; run a sweep first, or name its directory"
        )
    return directories


def _stored(path: Path) -> pd.DataFrame:
    """The frame that a report wrote; its runs' directories may be elsewhere, so they are blank."""
    try:
        runs = pd.read_parquet(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = (str(error).strip() or "no reason given").splitlines()[0]
        raise UserError(f"{path} is not a readable parquet file: {why}") from error
    require(len(runs) > 0, f"{path} holds no run")
    needed = {*FIELDS, *RANKING[1:], "method", "seed", "status", "test"} - {*LATER}
    lacks = sorted(needed - set(runs.columns))
    if lacks:
        raise UserError(f"{path} lacks {', '.join(lacks)}; give a runs.parquet of a report")
    return races.checked(records.checked(runs, str(path)), str(path)).assign(directory="")


def _placed(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs whose ranking is known, and the others.

    What a failed or unreadable run lacks is that of its like.
    """
    runs = runs.assign(**{name: runs.get(name) for name in (*ABSENT, *LATER)})
    runs = races.checked(runs, "the runs")
    for column in ("method", "task", "budget_unit", "positive", *FIELDS):
        runs[column] = runs[column].astype(object)
    for name in LATER:
        runs.loc[runs[name].isna() & runs["frozen_dropout"].notna(), name] = older(name)
    identity = [name for name in FIELDS if name not in ("precision", "version", "fingerprint")]
    rest = ["budget_unit", "budget", *identity[1:]]
    of_grid = ["task", "model", "fraction"]
    for by in ([*of_grid, "method"], of_grid):
        _fill(runs, [*rest, "precision", "version", "fingerprint"], by)
    runs.loc[runs["pretrained"].eq(False), "fingerprint"] = BY_SEED
    for name in ("precision", "version"):
        runs[name] = runs[name].fillna(UNKNOWN)
    _fill(runs, ["fingerprint"], [*identity, "precision", "version"])
    runs["fingerprint"] = runs["fingerprint"].fillna(UNKNOWN)
    lost = runs[["task", "method", "seed", "fraction", *rest]].isna().any(axis=1)
    if lost.all():
        raise UserError(f"no readable run: {runs['directory'].iloc[0]}: {runs['error'].iloc[0]}")
    return runs[~lost].astype({"seed": int}), runs[lost]


def _fill(runs: pd.DataFrame, columns: list[str], by: list[str]) -> None:
    """Give rows that lack all of `columns` those of the rows alike in `by`, where these agree."""
    lacks = runs[columns].isna().all(axis=1)
    if not lacks.any():
        return
    known = runs.loc[~lacks, [*by, *columns]].drop_duplicates()
    agreed = known[~known.duplicated(by, keep=False)]
    filled = runs.loc[lacks, by].merge(agreed, on=by, how="left")
    runs.loc[lacks, columns] = filled[columns].to_numpy()


def _settings(runs: pd.DataFrame, mix: Collection[str]) -> tuple[pd.DataFrame, tuple[Setting, ...]]:
    """Number the settings; fields of `mix` that differ read `mixed`, and methods are named by them.

    Each model has weights of its own, so that with models weights are mixed too.
    """
    mix = {*mix, "fingerprint"} if "model" in mix else set(mix)
    others = [name for name in FIELDS if name not in mix]
    runs, masked = runs.copy(), runs[FIELDS].copy()
    for name in [name for name in FIELDS if name in mix]:
        several = runs.groupby(others, observed=True)[name].transform("nunique") > 1
        told = several & runs[name].ne(older(name)) & (name not in UNASKED)
        if name == "fingerprint" and "model" in mix:  # two sets of weights of one name
            told = runs.groupby([*others, "model"], observed=True)[name].transform("nunique") > 1
        runs.loc[told, "method"] += f" {name}=" + runs.loc[told, name].astype(str)
        masked.loc[several, name] = MIXED
    distinct = {Setting(*values) for values in masked.drop_duplicates().itertuples(index=False)}
    settings = tuple(sorted(distinct, key=lambda setting: tuple(map(str, astuple(setting)))))
    number = {astuple(setting): index for index, setting in enumerate(settings)}
    runs.insert(0, "setting", [number[tuple(row)] for row in masked.itertuples(index=False)])
    return runs, settings


def narrowed(setting: Setting, runs: pd.DataFrame) -> Setting:
    """A setting with what some of its runs have in common where others make it `mixed`."""
    mixed = [name for name in FIELDS if getattr(setting, name) == MIXED]
    return replace(
        setting, **{name: runs[name].iloc[0] for name in mixed if runs[name].nunique() == 1}
    )


def _on_other_rows(runs: pd.DataFrame) -> pd.Series:
    """Whether a run has other rows or another metric than most of its ranking.

    Seeds may train on rows of their own, as `data.subset_seed` says, all methods on the same.
    """
    seeded = runs.assign(subset=runs["subset_seed"].fillna(0))
    refused = pd.Series(False, index=runs.index)
    for by, same in (
        (RANKING, OF_TEST),
        (RANKING, ["positive"]),
        ([*RANKING, "subset"], OF_TRAINING),
        ([*RANKING, "seed"], ["subset"]),
    ):
        rest = seeded[~refused]  # the next choice is among these, so that some are left
        refused[rest.index] |= _unlike(rest, by, same)
    return refused


def _unlike(runs: pd.DataFrame, by: list[str], same: list[str]) -> pd.Series:
    """Whether a run has other values in `same` than most of those alike in `by`.

    Of several tries of a seed the last counts, and of values as frequent that of the last run: the
    same command after a file was mended is of its rows now.
    """
    groups = runs.groupby(by)
    differs = groups[same].nunique().gt(1).any(axis=1)
    unlike = pd.Series(False, index=runs.index)
    for key in differs.index[differs]:
        group = groups.get_group(key)
        complete = group.dropna(subset=same)
        last = _once(complete if len(complete) else group).sort_values("started", kind="stable")
        votes = last.groupby(same, dropna=False, sort=False)["started"].transform("size")
        usual = last[votes.eq(votes.max())].iloc[-1]
        for name, value in usual[same].items():
            unlike[group.index] |= group[name].notna() & (group[name] != value)
    return unlike


def _once(runs: pd.DataFrame) -> pd.DataFrame:
    """Several tries of one seed count once: the last that ended well, or else the last."""
    runs = runs.assign(_ok=runs["status"].eq("ok")).sort_values(["_ok", "started"], kind="stable")
    runs = runs.drop_duplicates([*CELL, "seed"], keep="last").drop(columns="_ok")
    runs = runs.assign(_rank=runs["method"].map(_rank))
    runs = runs.sort_values([*RANKING, "_rank", "seed"], kind="stable")
    return runs.drop(columns="_rank").reset_index(drop=True)
