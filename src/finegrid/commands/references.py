"""List the published numbers of conf/reference/; docs/results/references.md is what it prints.

finegrid references --out docs/results/references.md
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finegrid.commands import arguments
from finegrid.commands.catalogue import options
from finegrid.report.load import published
from finegrid.runs.text import markdown_table
from finegrid.storage.files import write_atomic

INTRODUCTION = """# Published numbers

Made by `finegrid references --out docs/results/references.md` from `conf/reference/`, a file a
paper. Scores are in percent, as printed, ± one standard deviation where the paper has it; `-` is no
number. Only what was read is here: *not found* means looked for and not available to us.

| word | meaning |
|---|---|
| primary | read in the paper itself, or in its authors' code or slides |
| secondary | read in somebody else's note that says it checked the paper |
| split `dev` | selected and scored on GLUE's dev set, as `data.protocol=dev` |
| split `holdout` | selected on rows held out of train, scored on GLUE's dev set: our default |
| split `server` | scored by GLUE's test server, with which nothing of ours compares |

A published score is drawn beside ours, dotted, only where backbone, task, metric and split are the
same and the weights start as pre-trained. It is never ranked. `experiment=reproduce/<name>` runs
what is known of a paper's protocol.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the page, or write it."""
    parser = arguments.parser("references", __doc__)
    parser.add_argument("--out", type=Path, help="a file to write")
    given = parser.parse_args(argv)
    text = page()
    if given.out:
        write_atomic(given.out, text.encode())
    else:
        print(text, end="")


def page() -> str:
    """Every paper: an index, then its protocol, its scores and what it found."""
    papers = published.papers()
    runs = options("experiment")
    head = ["name", "paper", "backbone", "split", "scores", "reproduce"]
    index = [_entry(name, paper, f"reproduce/{name}" in runs) for name, paper in papers.items()]
    sections = ["\n".join(_section(name, paper)) for name, paper in papers.items()]
    return "\n".join([INTRODUCTION, markdown_table(head, index, padded=False), "", *sections])


def _entry(name: str, paper: Mapping[str, Any], runs: bool) -> list[str]:
    tables = [paper["protocol"] | table.get("protocol", {}) for table in paper.get("tables", ())]
    protocols = tables or [paper["protocol"]]
    backbones, splits = (
        "; ".join(dict.fromkeys(str(protocol[key]) for protocol in protocols))
        for key in ("backbone", "split")
    )
    count = sum(len(table["scores"]) for table in paper.get("tables", ()))
    link = f"[{name}](#{name})"
    return [link, _who(paper["paper"]), backbones, splits, str(count or "-"), "yes" if runs else ""]


def _who(paper: Mapping[str, Any]) -> str:
    return " ".join(str(part) for part in (paper["authors"], paper["year"]) if part)


def _section(name: str, paper: Mapping[str, Any]) -> Iterator[str]:
    about = paper["paper"]
    where = f"https://arxiv.org/abs/{about['arxiv']}" if "arxiv" in about else about["url"]
    title = str(about["title"]).rstrip(".")
    yield from (f"## {name}", "", f"{_who(about)}. [{title}]({where}). Source: {paper['source']}.")
    yield ""
    said = {key: value for key, value in paper["protocol"].items() if value != "none"}
    yield from (f"- {key.replace('_', ' ')}: {value}" for key, value in said.items())
    for table in paper.get("tables", ()):
        yield from (
            "",
            f"**{table['title']}** ({table.get('source', paper['source'])}). {_own(table)}",
        )
        yield from ("", *_scores(table["scores"]))
    if "findings" in paper:
        yield from ("", "Found:", "", *(f"- {text}" for text in paper["findings"]))
    if "other" in paper:
        yield from ("", "Names that are not ours:", "")
        yield from (f"- `{key}`: {text}" for key, text in paper["other"].items())
    yield ""


def _own(table: Mapping[str, Any]) -> str:
    """What is particular to a table, as sentences."""
    differs = "; ".join(f"{key} {value}" for key, value in table.get("protocol", {}).items())
    parts = [f"Here: {differs}." if differs else "", str(table.get("note", ""))]
    return " ".join(part[0].upper() + part[1:] for part in parts if part).strip()


def _scores(scores: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row a method (and number of examples), a column a task and metric; then the notes."""
    columns = list(dict.fromkeys((score["task"], score["metric"]) for score in scores))
    methods: dict[tuple[Any, str], dict[tuple[str, str], Mapping[str, Any]]] = {}
    for score in scores:
        row = methods.setdefault((score.get("n"), score["method"]), {})
        row[score["task"], score["metric"]] = score
    few = any(n for n, _ in methods)
    head = [
        *(["n"] if few else []),
        "method",
        *(f"{task}, {metric}" if metric != task else task for task, metric in columns),
    ]
    body = [
        [*([f"{n:,}" if n else "all"] if few else []), f"`{method}`"]
        + [_score(row.get(column)) for column in columns]
        for (n, method), row in methods.items()
    ]
    yield markdown_table(head, body, padded=False)
    yield from _notes(scores)


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    sd = f" ± {score['sd']:g}" if "sd" in score else ""
    start = f" (from {score['initialisation']})" if "initialisation" in score else ""
    return f"{score['score']:g}{sd}{start}"


def _notes(scores: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    noted = [score for score in scores if "note" in score]
    if noted:
        yield ""
    for score in noted:
        yield f"- `{score['method']}`, {score['task']}, {score['metric']}: {score['note']}"
