"""The command `finegrid` and its subcommands."""

import pytest
from commands import call, errors
from conftest import ROOT

from finegrid import __version__
from finegrid.cli import COMMANDS

PARSED = sorted(set(COMMANDS) - {"train", "sweep"})  # those that argparse reads, not Hydra


def test_help_names_every_command_and_imports_nothing_slow() -> None:
    result = call(command="--help", imports=True)
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert [name for name in listed if name != "finegrid"] == list(COMMANDS)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not {"torch", "pandas", "transformers", "matplotlib"} & imported
    files = {path.stem for path in (ROOT / "src/finegrid/commands").glob("*.py")}
    assert set(COMMANDS) <= files


def test_the_version() -> None:
    assert call(command="--version").stdout == f"finegrid {__version__}\n"


@pytest.mark.parametrize("name", PARSED)
def test_the_help_of_a_command_is_short_and_has_an_example(name: str) -> None:
    result = call("--help", command=name)
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: finegrid {name} ")
    assert f"\n    finegrid {name} " in result.stdout
    assert len(result.stdout.splitlines()) < 60


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_the_help_of_a_run_lists_the_options(name: str) -> None:
    result = call("--help", command=name, process=True)
    assert result.returncode == 0, result.stderr
    assert "\n  finegrid train method=bitfit" in result.stdout
    assert "\n  finegrid sweep method=full" in result.stdout
    assert "\n  bitfit " in result.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("repot", "finegrid: unknown command repot; did you mean 'report'"),
        ("method=lora", "unknown command method=lora; did you mean finegrid train method=lora?"),
    ],
)
def test_an_unknown_command_is_one_line(command: str, message: str) -> None:
    result = call(command=command)
    assert result.returncode == 1
    (line,) = errors(result)
    assert message in line
