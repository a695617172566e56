"""Predict with a finished run.

    finegrid predict RUN_DIR --input rows.csv

The input has the columns that the run was trained on; the output has a row for each of its rows.
"""

from collections.abc import Sequence
from pathlib import Path

from finegrid.commands import arguments
from finegrid.errors import require


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and write the predictions."""
    parser = arguments.parser("predict", __doc__)
    parser.add_argument("run", type=Path, help="run directory with record.json and the delta")
    parser.add_argument(
        "--input", type=Path, required=True, help="csv, tsv, json, jsonl, parquet or conll"
    )
    parser.add_argument("--output", type=Path, help="csv file (default: INPUT.predictions.csv)")
    parser.add_argument(
        "--raw", action="store_true", help="no apostrophe before text that begins like a formula"
    )
    parser.add_argument(
        "--off", action="store_true", help="without what the method can switch off (debias_diff)"
    )
    arguments.add_restoring(parser)
    given = parser.parse_args(argv)
    name = given.input.name.removesuffix(".gz").rpartition(".")[0] or given.input.name
    require(
        given.output is None or given.output.suffix in ("", ".csv", ".txt"),
        f"--output {given.output}: predictions are written as CSV; end it in .csv",
    )
    output = given.output or given.input.with_name(f"{name}.predictions.csv")

    from finegrid.inference import predict_file

    how = {"model_path": given.model_path, "allow": given.allow, "raw": given.raw}
    rows = predict_file(given.run, given.input, output, off=given.off, **how)
    print(f"{rows} predictions: {output}")
