"""Misspelt words: what an edit is, and the scores of finished runs under them."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Runs, composed

from finegrid import cli
from finegrid.analysis import smoothing
from finegrid.analysis.robustness import CHANGES, WORD, edited, edited_all
from finegrid.commands import robustness
from finegrid.config import RunConfig
from finegrid.errors import UserError
from finegrid.inference import restore
from finegrid.runs.record import read

TEXT = "The committee has never explained why these 1234 reports were late, although asked twice."


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_a_share_of_the_longer_words_is_misspelt(share: float) -> None:
    changed = edited(TEXT, share)
    before, after = TEXT.split(), changed.split()
    assert len(before) == len(after)
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    words = WORD.findall(TEXT)
    assert 0 < len(pairs) <= -(-share * len(words) // 1)
    for a, b in pairs:
        assert re.sub(r"\W", "", a) in words
        assert (a[0], a[-1]) == (b[0], b[-1])
        assert abs(len(a) - len(b)) <= 1
    assert edited(TEXT, share) == changed, "the same every time"


def test_each_change_is_what_it_says() -> None:
    swapped, left_out, doubled = (change("abcde", 2) for change in CHANGES)
    assert (swapped, left_out, doubled) == ("abdce", "abde", "abccde")


@pytest.mark.parametrize("text", ["", "of it", "1234 5678", "a b c d e f g"])
def test_a_text_without_longer_words_stays(text: str) -> None:
    assert edited(text, 1.0) == text


def test_texts_in_lists_are_edited_one_by_one() -> None:
    inner = ["several words here", "x"]
    assert edited_all((inner, None), 1.0) == ([edited(inner[0], 1.0), "x"], None)


def test_runs_are_scored_as_recorded_and_edited(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [runs("method=full"), runs("method=bitfit")]
    out = tmp_path / "edited.csv"
    cli.main(["robustness", *map(str, places), "--out", str(out), "--share", "0.5"])
    found = pd.read_csv(out)
    for place, row in zip(places, found.itertuples(), strict=True):
        record = read(place)
        assert row.method == record.method
        assert row.score == pytest.approx(record.test, abs=1e-6)
        assert row.change == pytest.approx(row.edited - row.score)
    assert found["change"].abs().max() > 0, "the model reads the words"
    table = capsys.readouterr().out
    assert re.search(r"\| builtin_paraphrase \| tiny +\|.*full", table)


def test_a_share_of_nothing_is_refused(runs: Runs) -> None:
    with pytest.raises(UserError, match=r"--share 0 must lie in \(0, 1\]"):
        robustness.main([str(runs("method=bitfit")), "--share", "0"])


def test_votes_are_over_copies_that_the_backbone_refilled(runs: Runs) -> None:
    run = restore(runs("method=bitfit"))
    denoiser = smoothing.Denoiser(run)
    texts = ["the old teacher reads a book", "she knows"]
    copies = denoiser.refilled(texts, share=0.3, seed=1)
    assert copies == denoiser.refilled(texts, share=0.3, seed=1)
    assert copies != denoiser.refilled(texts, share=0.3, seed=2)
    assert not any("[MASK]" in text for text in copies)
    rows = (texts, texts)
    votes = smoothing.outputs(denoiser, rows, share=0.3, votes=3)
    classes = []
    for vote in range(3):
        filled = [denoiser.refilled(column, share=0.3, seed=vote) for column in rows]
        classes.append(run.outputs((filled[0], filled[1])).argmax(-1))
    for row in range(2):
        counts = torch.bincount(torch.stack(classes)[:, row], minlength=2) / 3
        torch.testing.assert_close(votes[row], counts)


def test_votes_are_columns_of_their_own(
    runs: Runs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsmoothed(denoiser: smoothing.Denoiser, texts: Any, **how: Any) -> Any:
        return denoiser.run.outputs(texts)

    monkeypatch.setattr(smoothing, "outputs", unsmoothed)
    robustness.main([str(runs("method=bitfit")), "--votes", "2"])
    head, _, line = capsys.readouterr().out.splitlines()
    cells = dict(zip(head.split("|"), line.split("|"), strict=True))
    named = {name.strip(): value.strip() for name, value in cells.items()}
    assert named["smoothed"] == named["score"]
    assert named["smoothed_edited"] == named["edited"]


def test_a_decoder_fills_no_gaps() -> None:
    run: Any = SimpleNamespace(config=RunConfig.of(composed("model=tiny_llama")))
    with pytest.raises(UserError, match="--votes needs a masked language model"):
        smoothing.Denoiser(run)
