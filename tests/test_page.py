"""The report's page: whole, safe and honest as a file; usable in a real browser."""

import base64
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import browser
import numpy as np
import pandas as pd
import pytest
from browser import Browser
from grids import EVIL, METHODS, broken, grid, run, written

from finegrid.report import formatting, headlines, tables
from finegrid.report.comparison import Comparison
from finegrid.report.html import page, payload
from finegrid.report.html import runs as details
from finegrid.report.load import rankings, variants
from finegrid.report.recommend import decide
from finegrid.runs.text import rerun_command


@dataclass(frozen=True)
class Made:
    """A page and what it was made from."""

    comparison: Comparison
    html: str

    def answers(self, best: pd.DataFrame | None = None) -> list[headlines.Headline]:
        """What the page says first."""
        made = self.comparison
        return headlines.headlines(made if best is None else replace(made, best=best))


def make(root: Path, *, figures: bool = True) -> Made:
    """The page of the runs below a directory."""
    made = Comparison.of(rankings.load([root]))
    return Made(made, page.page(made, *made.drawn if figures else ()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two tasks, two fractions, five methods; one fails with a hostile error, one lacks a seed."""
    return make(written(tmp_path_factory.mktemp("grid"), broken(grid())))


class Reader(HTMLParser):
    """Elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.text += " " * (tag in ("td", "th"))

    def handle_data(self, data: str) -> None:
        if self.lasttag not in ("script", "style"):
            self.text += data


def test_the_page_needs_nothing_else(made: Made) -> None:
    tags = Reader(made.html).tags
    assert not {name for name, _ in tags} & {"link", "iframe", "object", "embed", "base", "img"}
    for _, attributes in tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in made.html
    assert not re.search(r"url\((?!#)", made.html)


def test_only_the_pages_own_script_may_run(made: Made) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', made.html)
    (script,) = re.findall(r"<script>(.*?)</script>", made.html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_a_hostile_error_is_text(made: Made) -> None:
    assert made.html.count("<script") == 2
    assert "<img" not in made.html
    assert EVIL in Reader(made.html).text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    runs = [run("lora", seed, 0.8, overrides=[f"method.x={EVIL}", EVIL], command=EVIL, device=EVIL,
                versions={"finegrid": EVIL}) for seed in range(2)]  # fmt: skip
    html = make(written(tmp_path, [*runs, *grid({"full": 0.8}, tasks=["mrpc"], seeds=2)])).html
    assert html.count("<script") == 2
    assert "<img" not in html
    assert html.count("</script>") == 2
    assert EVIL in Reader(html).text


def test_every_cell_has_its_row(made: Made) -> None:
    (body,) = re.findall(r'<table id="cells">.*?<tbody>(.*?)</tbody>', made.html, re.DOTALL)
    rows = [Reader(row).text.split() for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]
    assert len(rows) == len(made.comparison.cells) == 20
    for cell in made.comparison.cells.to_dict("records"):
        where = [cell["method"], cell["task"], *formatting.percent(cell["fraction"]).split()]
        (row,) = [row for row in rows if row[:4] == where]
        assert row[4] == formatting.score(cell["mean"])


def test_what_failed_or_is_missing_shows(made: Made) -> None:
    text = Reader(made.html).text
    assert "0, 4 failed" in text
    assert "3, 1 missing" in text
    for note in made.comparison.results.notes:
        assert note in text


def test_the_answer_comes_first_and_names_its_ties(made: Made) -> None:
    found = made.answers()
    assert [answer.task for answer in found] == ["mrpc", "rte"]
    best = made.comparison.best[
        (made.comparison.best.task == "mrpc") & (made.comparison.best.fraction == 1)
    ].set_index("method")
    main = found[0].main
    assert main.best.name == best.best["full"] == "full"
    assert set(main.level) == set(best.index[best.tie]) - {"full"}
    assert "bitfit" in main.level
    assert "head" in best.index[~best.tie]
    first = next(name for name in ("lora", "ia3", "head") if not best.tie[name])
    assert main.behind.startswith(f"{best.difference[first]:.4f} ahead of {first}")
    assert main.smallest is not None
    assert main.smallest.name == "bitfit", "the smallest of those level with the best"
    text = Reader(made.html).text
    assert text.index("cannot be told apart from bitfit") < text.index("All methods")
    assert text.index("on all 2 tasks: full") < text.index("cannot be told apart")


def test_a_tie_far_below_is_no_cheaper_choice(made: Made) -> None:
    """A method so noisy that nothing can be said of it is not offered for being small."""
    best = made.comparison.best.copy()
    best.loc[best.method == "head", "tie"] = True
    best.loc[best.method == "ia3", "tie"] = False
    main = made.answers(best)[0].main
    assert "head" in main.level
    assert main.smallest is not None
    assert main.smallest.name == "bitfit"
    best["tie"] = True  # as where seeds differ so much that nothing passes the adjusted test
    main = made.answers(best)[0].main
    assert main.smallest is not None
    assert main.smallest.name == "bitfit", "head is below by the test of that one comparison"


def test_few_seeds_are_called_few(tmp_path: Path) -> None:
    html = make(written(tmp_path, grid(seeds=2), points=0), figures=False).html
    assert "2 seeds only: too few to be sure of" in html
    assert "Cheaper ties" not in html, "too little is known to prefer what is cheaper"


def test_the_setting_with_most_runs_comes_first(tmp_path: Path) -> None:
    small = [replace(one, model="aaa", precision="16") for one in grid(tasks=["mrpc"], seeds=1)]
    html = make(written(tmp_path, [*small, *grid()], points=0), figures=False).html
    text = Reader(html).text
    assert 0 < text.index("Setting 2: tiny") < text.index("Setting 1: aaa")


def test_the_same_twice(made: Made) -> None:
    again = Comparison.of(made.comparison.runs)
    assert page.page(again, *again.drawn) == made.html


def test_a_page_without_a_score_or_a_figure(tmp_path: Path) -> None:
    failed = [
        replace(one, status="failed", test=None, metric=None, error="no memory", metrics={},
                train_seconds=None, train_rows=None, delta_bytes=None)
        for one in grid(seeds=1)
    ]  # fmt: skip
    html = make(written(tmp_path, failed)).html
    assert "No run has a score" in html
    assert "no memory" in html
    assert 'id="figures"' not in html


def test_each_number_has_its_command(made: Made) -> None:
    text = Reader(made.html).text
    assert "finegrid train method=lora seed=2" in text
    assert "python train.py experiment=x" in text
    assert "finegrid 0.4.0, commit 0123456789ab" in text


@pytest.mark.parametrize(
    ("overrides", "command"),
    [
        ("method=full seed=1", "finegrid train method=full seed=1"),
        ("task.text=[a, b] seed=1", "finegrid train 'task.text=[a, b]' seed=1"),
        ("task.train='my rows.csv'", """finegrid train 'task.train='"'"'my rows.csv'"'"''"""),
    ],
)  # fmt: skip
def test_a_command_survives_the_shell(overrides: str, command: str) -> None:
    assert rerun_command(variants.listed(overrides)) == command


def test_many_runs_are_bounded(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = made.comparison.results.runs
    kept = details.first(runs, 30)
    assert len(kept) == 30
    assert set(kept.index) >= set(runs.index[runs.status != "ok"])
    lowest = runs[runs.status == "ok"].groupby(rankings.CELL).test.idxmin()
    assert set(lowest) <= set(kept.index)
    monkeypatch.setattr(details, "RUNS", 30)
    html = page.page(made.comparison)
    assert f"{len(runs)} runs were read; the page lists 30" in html
    assert "2 of 4 runs are listed" in html


def test_equal_draws_share_a_place() -> None:
    values = np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 1.0], [0.0, 4.0, 2.0]])
    assert payload.places(values).tolist() == [[0, 2, 0], [0, 1, 2], [2, 0, 1]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (formatting.score(-0.25), "\u22120.2500"),
        (formatting.score(float("nan")), "\u2013"),
        (formatting.count(22_713_986), "22.7M"),
        (formatting.count(999_960), "1M"),
        (formatting.count(770), "770"),
        (formatting.size(3_400), "3.4 kB"),
        (formatting.duration(59.9), "60 s"),
        (formatting.duration(90), "1.5 min"),
        (formatting.duration(7300), "2 h"),
        (formatting.percent(0.3), "30 %"),
        (formatting.percent(0.001234), "0.123 %"),
        (formatting.chance(1.0), "> 99 %"),
        (formatting.budget("epochs", 1), "1 epoch"),
        (formatting.listed(["a", "b", "c"], most=2), "a, b and 1 more"),
    ],
)
def test_numbers_read_well(value: str, text: str) -> None:
    assert value.replace(formatting.SPACE, " ") == text


# ---- in a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser, if there is one."""
    if browser.found() is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)} is installed")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def file(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page on disk."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(made.html, encoding="utf-8")
    return path


@pytest.fixture
def shown(tab: Browser, file: Path) -> Browser:
    """The page, freshly opened on a desk."""
    tab.size(1280, 900)
    tab.media(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    tab.open(file)
    return tab


ROWS = "[...document.querySelectorAll('#cells tbody tr')].filter((row) => !row.hidden)"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def column(tab: Browser, at: int) -> list[str]:
    """The texts of a column, of the rows that show."""
    return tab.run(f"{ROWS}.map((row) => row.cells[{at}].innerText.trim())")


def choose(tab: Browser, selector: str, value: object) -> None:
    """Set a control as a user would."""
    tab.run(
        f"(() => {{ const it = document.querySelector({selector!r}); it.value = {value!r};"
        "it.dispatchEvent(new Event('input', {bubbles: true}));"
        "it.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def test_it_is_quiet_and_asks_for_nothing(shown: Browser, file: Path) -> None:
    shown.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    shown.run("new Promise((done) => setTimeout(done, 50))")
    assert shown.run("document.querySelectorAll('.curve svg').length") == 68
    assert shown.run("window.evil") is None
    assert shown.said() == []
    assert shown.requested() == [file.as_uri()]


def test_columns_sort(shown: Browser) -> None:
    heads = shown.run("[...document.querySelectorAll('#cells thead th')].map((h) => h.innerText)")
    at = next(number for number, text in enumerate(heads) if text.startswith("Score"))
    button = f"document.querySelectorAll('#cells thead button')[{at}]"
    state = f"document.querySelectorAll('#cells thead th')[{at}].ariaSort"
    assert shown.run(state) is None
    shown.run(f"{button}.click()")
    falling = column(shown, at)
    assert shown.run(state) == "descending"
    numbers = [float(text) for text in falling if text != "\u2013"]
    assert numbers == sorted(numbers, reverse=True)
    assert falling[-2:] == ["\u2013"] * 2, "what has no score comes last"
    shown.run(f"{button}.click()")
    assert shown.run(state) == "ascending"
    rising = column(shown, at)
    assert [float(text) for text in rising[:-2]] == numbers[::-1]
    assert rising[-2:] == ["\u2013"] * 2
    shown.run("document.querySelector('#cells thead button').click()")
    assert column(shown, 0) == sorted(column(shown, 0))
    assert shown.run("document.querySelectorAll('#cells [aria-sort]').length") == 1


def test_rows_are_filtered_and_counted(shown: Browser) -> None:
    count = "document.querySelector('[data-count]').value"
    assert shown.run(count) == "20 of 20 rows"
    choose(shown, "[data-column=task]", "rte")
    assert (shown.run(count), set(column(shown, 1))) == ("10 of 20 rows", {"rte"})
    choose(shown, "[data-text]", "30 %")
    assert (shown.run(count), len(column(shown, 0))) == ("5 of 20 rows", 5)
    choose(shown, "[data-text]", "FAILED")
    assert column(shown, 0) == ["ia3"]
    shown.run("document.querySelector('[data-filters] [type=reset]').click()")
    shown.run("new Promise((done) => setTimeout(done, 20))")
    assert shown.run(count) == "20 of 20 rows"
    shown.run("document.querySelector('[data-level]').click()")
    assert 2 <= len(column(shown, 0)) < 20


def test_a_cell_opens_and_closes(shown: Browser) -> None:
    shown.run("document.querySelector('#cells tbody button').focus()")
    shown.press("Enter")
    assert shown.run("document.querySelector('dialog').open")
    title = shown.run("document.querySelector('#dialog-title').textContent")
    assert title == "mrpc, full: 100\u00a0% of the data, 3\u00a0epochs"
    inside = "document.querySelector('dialog .body')"
    assert shown.run(f"{inside}.querySelectorAll('.run').length") == 4
    assert shown.run(f"{inside}.querySelectorAll('.curve path').length") == 4
    assert "finegrid train method=full seed=3" in shown.run(f"{inside}.innerText")
    shown.press("Escape")
    assert not shown.run("document.querySelector('dialog').open")
    shown.run("new Promise((done) => setTimeout(done, 100))")  # the close event comes afterwards
    assert shown.run(f"{inside}.children.length") == 0
    assert shown.run("document.querySelectorAll('#cell-0 .run').length") == 4
    assert shown.run("document.activeElement.textContent") == "full"
    choose(shown, "[data-text]", "failed")
    shown.run(f"{ROWS}[0].querySelector('button').click()")
    assert EVIL in shown.run("document.querySelector('dialog .error').textContent")


TABLE = """(() => {
  const panel = document.querySelector("[data-decision]");
  const form = document.querySelector("[data-decide]");
  return LIMITS.map((limits) => {
    for (const [name, value] of Object.entries(limits)) form.elements[name].value = value;
    form.dispatchEvent(new Event("input", { bubbles: true }));
    const text = (row, at) => row.cells[at].textContent;
    const rows = [...panel.querySelectorAll("tbody tr")];
    return [panel.querySelector(".choice").textContent, ...rows.map((row) =>
      [text(row, 0), text(row, 1), text(row, 2), Boolean(text(row, 6)), !row.closest("details")])];
  });
})()"""


@pytest.mark.parametrize("task", range(2))
def test_the_panel_decides_as_recommend_does(shown: Browser, made: Made, task: int) -> None:
    """Leader, level methods, probabilities and front, over a table of limits."""
    labels, minutes = (299, 300, 650, 999, 1000, 2000, 2001), (0.084, 0.09, 0.12, 0.2, 10)
    limits = [
        {"task": task, "labels": label, "minutes": minute, "kilobytes": kilobyte}
        for label, minute, kilobyte in product(labels, minutes, (1, 2, 8, 10, 40, 3000))
    ]
    limits = random.Random(task).sample(limits, 80)
    answers = shown.run(TABLE.replace("LIMITS", json.dumps(limits)))
    compared, choices = made.comparison, set()
    for limit, (sentence, *rows) in zip(limits, answers, strict=True):
        asked = decide.Asked(
            limit["labels"], limit["minutes"], limit["kilobytes"] / 1000, ("mrpc", "rte")[task]
        )
        found = decide.decide(compared, asked)
        choices.add(found.choice)
        assert (found.choice is None) == sentence.startswith("Not enough evidence"), limit
        told = found.options.query("leads or level or front") if found.choice else found.options
        assert rows == [
            [row["method"], formatting.chance(row["probability"]), formatting.score(row["score"]),
             row["front"], row["leads"] or row["level"]]
            for row in told.to_dict("records")
        ], limit  # fmt: skip
        if found.choice:
            assert sentence.startswith(f"Use {found.choice}." if found.clear else "No method is")
    assert choices > {None, "full", "bitfit"}


def test_the_panel_compares_side_by_side_as_recommend_does(tab: Browser, tmp_path: Path) -> None:
    runs = [one for one in grid(tasks=("mrpc",)) if one.method != "full" or one.fraction < 1]
    made = make(written(tmp_path / "runs", runs), figures=False)
    (tmp_path / "report.html").write_text(made.html)
    tab.open(tmp_path / "report.html")
    limits = [{"labels": labels, "minutes": 10, "kilobytes": 3000} for labels in (300, 999, 1000)]
    leaders = [rows[0][0] for _, *rows in tab.run(TABLE.replace("LIMITS", json.dumps(limits)))]
    assert leaders == [
        decide.decide(made.comparison, decide.Asked(limit["labels"], 10, 3.0)).choice
        for limit in limits
    ]
    assert leaders[0] == leaders[1] == "full"
    assert leaders[2] != "full"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("labels", 5, "measured with 300 to 1000 examples"),
        ("labels", 5000, "nothing is extrapolated"),
        ("kilobytes", 1, "nothing measured fits"),
        ("kilobytes", 2, "only head fits and learned anything"),
        ("minutes", "", "each above 0"),
    ],
)
def test_the_panel_says_when_it_cannot(shown: Browser, name: str, value: object, why: str) -> None:
    assert "Not enough" not in shown.run("document.querySelector('[data-decision]').innerText")
    choose(shown, f"[name={name}]", value)
    text = shown.run("document.querySelector('[data-decision]').innerText")
    assert text.startswith("Not enough evidence: ")
    assert why in text


def test_two_seeds_are_no_evidence(tab: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(make(written(tmp_path / "runs", grid(seeds=2)), figures=False).html)
    tab.open(path)
    text = tab.run("document.querySelector('[data-decision]').innerText")
    assert text.startswith("Not enough evidence: no method has 3 finished seeds here")


def test_all_can_be_reached_with_the_keyboard(shown: Browser) -> None:
    reached = []
    for _ in range(60):
        shown.press("Tab")
        reached.append(shown.run(
            "(() => { const it = document.activeElement, style = getComputedStyle(it);"
            "return [it.tagName, it.textContent.slice(0, 20).trim(), it.name || '', "
            "style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 1]; })()"
        ))  # fmt: skip
    reached = [one for one in reached if one[0] != "BODY"]  # where a slow page has no focus yet
    assert reached[0][:2] == ["A", "Skip to the answer"]
    assert all(outlined for *_, outlined in reached)
    tags = {tag for tag, *_ in reached}
    assert tags >= {"A", "INPUT", "SELECT", "BUTTON", "SUMMARY", "DIV"}
    assert any(text.startswith("Score") for _, text, *_ in reached)


def test_a_figure_is_on_the_first_screen_and_all_costs_are_in_sight(shown: Browser) -> None:
    shown.size(1280, 800)
    figure = "document.querySelector('.answer figure').getBoundingClientRect()"
    assert shown.run(f"{figure}.bottom") < 800
    assert shown.run(f"{figure}.left") > 600, "beside the answer"
    assert (
        shown.run("document.querySelectorAll('.answer')[0].querySelectorAll('.whisker').length")
        == 5
    )
    last = "document.querySelector('#cells thead th:last-child').getBoundingClientRect().right"
    assert shown.run(last) <= 1280
    assert (
        shown.run("(box => box.scrollWidth - box.clientWidth)(document.querySelector('.tall'))")
        <= 0
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390])
def test_it_fits_a_phone(shown: Browser, scheme: str, width: int) -> None:
    shown.size(width, 740)
    shown.media(prefers_color_scheme=scheme)
    assert shown.run(OVERFLOW) <= 0
    shown.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert shown.run(OVERFLOW) <= 0
    shown.run("document.querySelector('#cells tbody button').click()")
    assert shown.run("document.querySelector('dialog').getBoundingClientRect().width") <= 360
    assert shown.run(OVERFLOW) <= 0
    body = shown.run("getComputedStyle(document.body).backgroundColor")
    turned = shown.run("getComputedStyle(document.querySelector('figure svg')).filter")
    dark = {"light": False, "dark": True}[scheme]
    assert (sum(map(int, re.findall(r"\d+", body)[:3])) < 200) == dark
    assert turned.startswith("invert" if dark else "none")


def test_a_print_shows_all(shown: Browser) -> None:
    shown.run("addEventListener('beforeprint', () => setTimeout(() => {}, 0));"
              "addEventListener('beforeprint', () => { window.open_ = "
              "document.querySelectorAll('details:not([open])').length; })")  # fmt: skip
    printed = base64.b64decode(shown.send("Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 3
    assert shown.run("window.open_") == 0
    assert shown.run("document.querySelectorAll('details:not([open])').length") > 0
    shown.send("Emulation.setEmulatedMedia", media="print")
    for selector in ("form.filters", "nav", "#decide", "button[data-download]"):
        seen = f"document.querySelector({selector!r}).getClientRects().length"
        assert shown.run(seen) == 0, selector
    shown.send("Emulation.setEmulatedMedia", media="")


def test_figures_and_tables_can_be_saved(shown: Browser, made: Made) -> None:
    shown.run("HTMLAnchorElement.prototype.click = () => {}; window.saved = []; 0")
    shown.run("URL.createObjectURL = (blob) => { saved.push(blob); return 'blob:x'; }; 0")
    shown.run("document.querySelectorAll('[data-download]').forEach((one) => one.click())")
    assert shown.run("saved.length") == 1 + 2 * 11
    cells = shown.run("saved[0].text()")
    assert cells == tables.csv(made.comparison.cells)
    svg = shown.run("saved[2].text()")
    assert svg.startswith("<svg")


def test_without_scripts_the_numbers_are_there(tab: Browser, file: Path) -> None:
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(file)
    try:
        text = tab.send("Runtime.evaluate", expression="document.body.innerText")
        body = text["result"]["value"]
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert "cannot be told apart from bitfit" in body
    assert "needs JavaScript" in body
    assert all(method in body for method in METHODS)


@pytest.mark.parametrize("option", ["--config-dir mine", "--config-dir=mine", "-cd=mine"])
def test_the_command_of_a_failed_cell_repeats_the_folder_of_options(option: str) -> None:
    sweep = f"finegrid sweep {option} method=mine seed=0,1"
    again = rerun_command(["method=mine", "seed=1"], sweep="grid", command=sweep).split()
    assert again[:2] == ["finegrid", "sweep"]
    assert again[again.index("mine") - 1] == "--config-dir"
    assert again[-3:] == ["method=mine", "seed=1", "hydra.sweep.dir=grid"]
    assert rerun_command(["seed=1"], command="no 'command line") == "finegrid train seed=1"
    assert rerun_command(["experiment=demo"]) == "finegrid train experiment=demo hydra.mode=RUN"
