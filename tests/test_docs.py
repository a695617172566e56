"""The documents agree with the code: the picture of the wings, checks, version, file names.

`PYTHONPATH=src python tests/test_docs.py` draws the picture in architecture.md again.
"""

import argparse
import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, composed
from test_house import WINGS

import finegrid
from finegrid import cli
from finegrid.config import RunConfig
from finegrid.grid.completion import completed

ARCHITECTURE = ROOT / "docs/explanation/architecture.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if page.parent.name != "results"]  # by people
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def below(wing: str) -> set[str]:
    """Every wing that a wing imports, directly or through others."""
    reached: set[str] = set()
    left = {wing}
    while left:
        left = set().union(*(WINGS[name] for name in left)) - reached
        reached |= left
    return reached


def floors() -> list[list[str]]:
    """The wings from the bottom up: each imports from floors below, or from its own in a circle."""
    made: list[list[str]] = []
    standing: set[str] = set()
    while left := WINGS.keys() - standing:
        made.append(sorted(w for w in left if all(w in below(b) for b in below(w) - standing)))
        standing |= set(made[-1])
    return made


def picture() -> str:
    """The wings as a Mermaid diagram, the highest floor first."""
    lines = ["```mermaid", "flowchart TB"]
    stack = floors()
    for number, wings in reversed(list(enumerate(stack))):
        boxes = [f'    w_{wing}["{wing}"]' for wing in wings]
        lines += [f'  subgraph floor{number}[" "]', *boxes, "  end"]
    lines += [f"  floor{n} --> floor{n - 1}" for n in range(len(stack) - 1, 0, -1)]
    return "\n".join([*lines, "```"])


def test_the_picture_shows_the_wings() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert picture() in text, "draw it again: PYTHONPATH=src python tests/test_docs.py"
    described = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(described) == sorted(WINGS)


def test_commits_are_checked_like_make_check() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for hook in config["repos"][0]["hooks"]]
    assert entries == [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]


def test_citation_and_workflow_fit_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    jobs = (workflow["jobs"][name] for name in ("test", "wheel"))
    tried = [job["strategy"]["matrix"]["python"] for job in jobs]
    lowest, beyond = re.findall(r"3\.(\d+)", project["requires-python"])
    assert tried == [[f"3.{minor}" for minor in range(int(lowest), int(beyond))]] * 2


def named(page: Path) -> str:
    """A page as a test's name."""
    return page.relative_to(ROOT).as_posix()


def hooks() -> Any:
    """The module that mkdocs calls."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    made = {ROOT / "docs" / f"{name}.md" for name in hooks().PAGES}
    links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
    assert [link for link in links if not link.exists() and link.resolve() not in made] == []


@pytest.mark.parametrize(
    "name", ["CONTRIBUTING.md", "docs/explanation/architecture.md", "docs/explanation/glossary.md"]
)
def test_named_files_exist(name: str) -> None:
    """Paths in backticks, below the root, src/finegrid or its folder."""
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = re.findall(r"`([\w./]+(?:/|\.py|\.yaml|\.md))`", text)
    folders = (ROOT, ROOT / "src/finegrid")
    assert [path for path in paths if not any((base / path).exists() for base in folders)] == []


class Parsed(Exception):
    """Ends a command whose arguments are good."""


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_code_blocks_are_good(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands parse and compose, Python compiles and names what there is, YAML is YAML."""
    for way in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, way, stopping(way))
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            check_python(text)
        elif language == "yaml":
            yaml.safe_load(text)
        elif language == "bash":
            for words in commands(text):
                check_command(*words)


def stopping(way: str) -> Callable[..., None]:
    """A parser's way to parse, after which the command ends."""
    parse = getattr(argparse.ArgumentParser, way)

    def parsed(*args: Any) -> None:
        parse(*args)
        raise Parsed

    return parsed


def check_python(text: str) -> None:
    """Compile it, and find every `finegrid.name` that it uses."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "finegrid":
            assert hasattr(finegrid, node.attr), node.attr


def commands(text: str) -> Iterator[list[str]]:
    """The words after `finegrid` of each command in a block of bash."""
    for line in text.replace("\\\n", " ").splitlines():
        match shlex.split(line, comments=True):
            case ["finegrid", *words]:
                yield words
            case ["python", "train.py", *words]:
                yield ["train", *words]


def check_command(name: str, *words: str) -> None:
    """A subcommand whose arguments its parser, or Hydra, takes."""
    assert name in cli.COMMANDS
    if name in ("train", "sweep", "plan"):
        plain = [word for word in words if not word.startswith(("-", "hydra", "tuned="))]
        first = [re.sub(r"=(?!\[)([^,]+),.*", r"=\1", word) for word in plain]
        RunConfig.of(composed(*completed(first)))
    else:
        with pytest.raises(Parsed):
            import_module(f"finegrid.commands.{name}").main(words)


if __name__ == "__main__":
    page = ARCHITECTURE.read_text(encoding="utf-8")
    drawn = re.sub(r"```mermaid.*?```", lambda _: picture(), page, flags=re.DOTALL)
    ARCHITECTURE.write_text(drawn, encoding="utf-8")
