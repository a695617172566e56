"""Give a finished run to another project: `python scripts/export.py RUN_DIR --to merged`.

merged    a plain Hugging Face checkpoint; for methods that amount to other weights
peft      the peft library's files; for lora, ia3, layernorm, prefix and prompt (place=front)
adapters  the adapters library's files; for houlsby, pfeiffer, parallel and compacter

The files are loaded back and must give the run's logits, or nothing is written.
"""

import finegrid.quiet  # noqa: F401

# isort: split
import argparse
from pathlib import Path

from finegrid import cli


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run directory with record.json and the delta")
    parser.add_argument("--to", required=True, choices=("merged", "peft", "adapters"))
    parser.add_argument("--out", type=Path, help="new directory (default: RUN_DIR/export-TARGET)")
    parser.add_argument("--model-path", help="where the run's backbone lies now")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PACKAGE",
        help="a package of your own that the run's method comes from",
    )  # fmt: skip
    parser.add_argument(
        "--python", help="interpreter that has the adapters library, to check --to adapters with"
    )
    given = parser.parse_args()

    from finegrid.export import export

    how = {"model_path": given.model_path, "allow": given.allow, "python": given.python}
    print(export(given.run, given.to, given.out, **how))


if __name__ == "__main__":
    cli.guard(main)
