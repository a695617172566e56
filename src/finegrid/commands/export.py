"""Give a finished run to another project.

    finegrid export RUN_DIR --to merged

merged    a plain Hugging Face checkpoint; for methods that amount to other weights
peft      the peft library's files; for lora, ia3, layernorm, prefix and prompt (place=front)
adapters  the adapters library's files; for houlsby, pfeiffer, parallel and compacter

The files are loaded back and must give the run's logits, or nothing is written.
"""

from collections.abc import Sequence
from pathlib import Path

from finegrid.commands import arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and export."""
    parser = arguments.parser("export", __doc__)
    parser.add_argument("run", type=Path, help="run directory with record.json and the delta")
    parser.add_argument("--to", required=True, choices=("merged", "peft", "adapters"))
    parser.add_argument("--out", type=Path, help="new directory (default: RUN_DIR/export-TARGET)")
    arguments.add_restoring(parser)
    parser.add_argument(
        "--python", help="interpreter that has the adapters library, to check --to adapters with"
    )
    given = parser.parse_args(argv)

    from finegrid.export import export

    how = {"model_path": given.model_path, "allow": given.allow, "python": given.python}
    print(export(given.run, given.to, given.out, **how))
