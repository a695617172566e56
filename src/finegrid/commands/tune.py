"""Choose every method's learning rate from the trials of experiment=tune, or of tune.trials.

    finegrid tune multirun/tune --out conf/tuned/mine.yaml

For each method the rate with the best mean validation score is picked; a file in conf/tuned/ is
then used with `finegrid train --config-dir conf tuned=mine`. A sweep with tune.trials writes such a
file by itself, in its directory; its rungs are shown apart, and the full-length one decides.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from finegrid.commands import arguments
from finegrid.errors import UserError
from finegrid.report.load import rankings
from finegrid.runs import layout, trials
from finegrid.runs.record import Record
from finegrid.storage.files import write_atomic
from finegrid.tuning import rungs, search, write, write_rungs


def main(argv: Sequence[str] | None = None) -> None:
    """Read the records below the directories, print Markdown and write the rates."""
    parser = arguments.parser("tune", __doc__)
    parser.add_argument(
        "directories",
        type=Path,
        nargs="+",
        help="of one search: a sweep's, or a report's with trials.jsonl",
    )
    parser.add_argument("--out", type=Path, help="the rates, such as conf/tuned/NAME.yaml")
    parser.add_argument(
        "--unequal", action="store_true", help="compare methods with unequal numbers of trials"
    )
    given = parser.parse_args(argv)
    if given.out and given.out.suffix != ".yaml":
        raise UserError(f"--out {given.out} must end in .yaml, as conf/tuned/NAME.yaml does")
    runs = [run for directory in given.directories for run in _records(directory)]
    of_search = rungs.of_search(runs)
    if of_search:
        results = rungs.results(of_search, unequal=given.unequal)
        text, overlay = write_rungs.markdown(results), partial(write_rungs.overlay, results)
    else:
        found = search.search(runs, unequal=given.unequal)
        text, overlay = write.markdown(found), partial(write.overlay, found)
    print(text)
    if given.out:
        command = arguments.command("tune", argv)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(given.out, overlay(given.out.stem, command).encode())
        use = f"--config-dir {given.out.parent.parent} tuned={given.out.stem}"
        print(f"\n{given.out}: use it with finegrid train {use}")


def _records(directory: Path) -> Iterable[Record]:
    """The records below a sweep's directory; of a report the trials that it keeps."""
    kept = trials.beside(directory)
    of_report = directory.is_dir() or directory.name in (rankings.PARQUET, trials.FILE)
    if not (of_report and kept.is_file()) or any(layout.run_directories(directory)):
        return rankings.read_records(directory)
    if records := trials.read(kept):
        return records.values()
    raise UserError(f"{kept} holds no trial")
