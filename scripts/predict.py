"""Predict with a finished run: `python scripts/predict.py RUN_DIR --input FILE.csv`."""

import finegrid.quiet  # noqa: F401

# isort: split
import argparse
from pathlib import Path

from finegrid import cli


def main() -> None:
    """Read the command line and write the predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory with record.json and the delta")
    parser.add_argument(
        "--input", type=Path, required=True, help="csv, tsv, json, jsonl or parquet"
    )
    parser.add_argument("--output", type=Path, help="csv file (default: INPUT.predictions.csv)")
    parser.add_argument(
        "--raw", action="store_true", help="no apostrophe before text that begins like a formula"
    )
    parser.add_argument("--model-path", help="where the run's backbone lies now")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PACKAGE",
        help="a package of your own that the run's method comes from",
    )  # fmt: skip
    given = parser.parse_args()
    name = given.input.name.removesuffix(".gz").rpartition(".")[0] or given.input.name
    output = given.output or given.input.with_name(f"{name}.predictions.csv")

    from finegrid.inference import predict_file

    how = {"model_path": given.model_path, "allow": given.allow, "raw": given.raw}
    rows = predict_file(given.run, given.input, output, **how)
    print(f"{rows} predictions: {output}")


if __name__ == "__main__":
    cli.guard(main)
