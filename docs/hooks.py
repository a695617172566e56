"""Pages made from the code when mkdocs builds the site.

mkdocs calls `on_files`.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finegrid.commands.catalogue import GROUPS, options

ROOT = Path(__file__).resolve().parents[1]
VALUES = ("train", "data/default", "sweep/default", "trainer/auto")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those that lie in docs/."""
    from mkdocs.structure.files import File

    for name, lines in PAGES.items():
        text = "\n".join(lines()) + "\n"
        files.append(File.generated(config, f"{name}.md", content=text))
    return files


def configuration() -> Iterator[str]:
    """The options of each group, and the values that every run has."""
    yield "# Configuration\n\nOne run is one choice of each group; any value can be overridden.\n"
    for group in GROUPS:
        yield f"## {group}=\n\n| option | what it is |\n|---|---|"
        for name, what in options(group).items():
            yield f"| `{name}` | {what.replace('|', '/')} |"
        yield ""
    for name in VALUES:
        text = (ROOT / f"conf/{name}.yaml").read_text(encoding="utf-8")
        yield f"## conf/{name}.yaml\n\n```yaml\n{text}```\n"


def command() -> Iterator[str]:
    """What each subcommand says of itself."""
    yield "# The command\n"
    yield "`python -m finegrid` is the same command, and `python train.py` is `finegrid train`.\n"
    yield f"```text\n{_help()}```\n"
    for name in re.findall(r"^  (\w+)  +\S", _help(), re.MULTILINE):
        yield f"## finegrid {name}\n\n```text\n{_help(name)}```\n"


def _help(*names: str) -> str:
    call = [sys.executable, "-m", "finegrid", *names, "--help"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout


def record() -> Iterator[str]:
    """The fields of record.json with the comments that explain them."""
    yield "# The record\n\n`record.json` is one flat, versioned table of what a run was, what came"
    yield "out and what it cost. A field is null where a run did not get that far.\n"
    source = (ROOT / "src/finegrid/runs/record.py").read_text(encoding="utf-8")
    (body,) = re.findall(r"^class Record:\n(.*?)^    def ", source, re.MULTILINE | re.DOTALL)
    for line in body.splitlines():
        if heading := re.fullmatch(r"    # (\w+)", line):
            yield f"\n## {heading[1]}\n\n| field | type | what it is |\n|---|---|---|"
        elif match := re.match(r"    (\w+): ([^=#]+?)(?: = [^#]*)?(?:  # (.*))?$", line):
            name, kind, comment = match.groups()
            yield f"| `{name}` | {kind.replace('|', 'or')} | {comment or ''} |"


def differences() -> Iterator[str]:
    """Where each method differs from its paper, as its file says."""
    yield "# Where the methods differ from their papers\n"
    yield "Collected from `src/finegrid/methods/`, whose files open with their formulas.\n"
    for file in sorted((ROOT / "src/finegrid/methods").glob("*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        title, *paragraphs = text.split("\n\n")
        start = next((n for n, p in enumerate(paragraphs) if "differ" in p), None)
        if start is not None:
            yield f"## {file.stem}\n\n{title}\n\n" + "\n\n".join(paragraphs[start:]) + "\n"


PAGES = {
    "reference/configuration": configuration,
    "reference/command": command,
    "reference/record": record,
    "explanation/differences": differences,
}
