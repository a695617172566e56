"""Fine-tune one backbone on one task with one method; `--help` lists what there is."""

from finegrid import cli
from finegrid.commands import train

if __name__ == "__main__":
    cli.guard(train.main)
