"""BibTeX of what was compared: finegrid and the papers of methods, tasks and models.

`conf/reference/works.bib` has the entries. A YAML of conf/ cites those whose arXiv id or key stands
in the comment at its head.
"""

import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

from finegrid.report.load.published import DIRECTORY
from finegrid.report.load.rankings import Results

WORKS = DIRECTORY / "works.bib"
FINEGRID = "finegrid"


def entries(path: Path = WORKS) -> dict[str, str]:
    """Key -> entry, as text."""
    texts = re.split(r"^(?=@)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {text[text.index("{") + 1 : text.index(",")]: f"{text.strip()}\n" for text in texts}


def cited(yaml: Path) -> list[str]:
    """The keys of the entries that a file of conf/ cites; none if there is no such file."""
    if not yaml.is_file():
        return []
    lines = yaml.read_text(encoding="utf-8").splitlines()
    words = set(re.findall(r"[\w.]*\w", " ".join(takewhile(lambda line: line[:1] == "#", lines))))
    return [key for key, entry in entries().items() if words & {key, _arxiv(entry)}]


def _arxiv(entry: str) -> str:
    match = re.search(r"eprint = \{(.+?)\}", entry)
    return match[1] if match else ""


def bibtex(results: Results) -> str:
    """The entries of all that some results compare, each once, and whose entry is missing.

    Names are looked up in conf/ as they are without the overrides of a variant.
    """
    known, wanted, missing = entries(), {FINEGRID}, []
    for group in ("method", "task", "model"):
        for name in sorted({str(one).partition(" ")[0] for one in results.runs[group].unique()}):
            keys = cited(DIRECTORY.parent / group / f"{Path(name).name}.yaml")
            wanted |= {*keys}
            missing += [] if keys else [f"{group} {name}"]
    parts = [entry for key, entry in known.items() if key in wanted]
    parts[0] = _with_versions(parts[0], [setting.version for setting in results.settings])
    note = [f"% No entry is known for: {', '.join(missing)}.\n"] if missing else []
    return "\n".join([*parts, *note])


def _with_versions(entry: str, versions: Iterable[str]) -> str:
    """finegrid's entry with the versions that the runs are of."""
    return entry.replace("\n}", f"\n  version = {{{', '.join(sorted(set(versions)))}}},\n}}")
