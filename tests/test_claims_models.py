"""Which model, and how many labels: claims that hold between settings get their verdicts."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from commands import call
from test_between_models import runs as of_models
from test_decide import noise, table

from finegrid.report.load import rankings
from finegrid.report.stats.scores import evidence
from finegrid.studies import labels, models
from finegrid.studies.study import Given, Study
from finegrid.studies.verdict import Verdict


def judged(study: Study, frame: pd.DataFrame) -> dict[str, Verdict]:
    """Verdicts by the claim's name, of the one setting that mixing leaves."""
    results = rankings.gather(frame, mix=study.mix)
    (verdicts,) = study.verdicts(Given(results, evidence(results, seeds_alone=True), 0.01)).values()
    return {verdict.finding.claim.name: verdict for verdict in verdicts}


def test_the_model_that_is_ahead_with_each_method() -> None:
    found = judged(models.STUDY, of_models({"large": 0.1, "small": 0.0}))
    assert list(found) == ["large above small: full", "large above small: bitfit"]
    full, bitfit = found.values()
    assert (full.outcome, bitfit.outcome) == ("confirmed", "not confirmed")
    assert full.effect == pytest.approx(0.1, abs=0.01)
    (full, _) = judged(models.STUDY, of_models({"large": 0.0, "small": 0.1})).values()
    assert full.outcome == "contradicted"


def test_a_method_of_one_model_is_not_tested() -> None:
    frame = of_models()
    frame = frame[frame["model"].eq("large") | frame["method"].eq("full")]
    found = judged(models.STUDY, frame)
    assert found["large above small: bitfit"].outcome == "not tested"
    assert not judged(models.STUDY, frame[frame["model"].eq("large")])


def test_arguments_of_a_method_stay_with_it() -> None:
    frame = of_models().replace({"method": {"bitfit": "lora"}})
    frame["overrides"] = frame["method"].map({"full": "", "lora": "method.rank=4"})
    found = judged(models.STUDY, frame)
    assert found["large above small: lora method.rank=4"].outcome == "not confirmed"


def world(**gains: float) -> Callable[..., float]:
    """Methods that gain so much over the others at any number of labels."""

    def score(method: str, task: str, fraction: float, budget: float, seed: int) -> float:
        return 0.7 + gains.get(method, 0.0) + 0.001 * noise(method, task, fraction, seed)

    return score


def few_and_many(score: Callable[..., float], *methods: str, **changes: object) -> pd.DataFrame:
    """100, 300 and 3,000 labels."""
    frame = table(score, methods=methods, **changes)  # type: ignore[arg-type]
    return frame.assign(train_rows=frame["train_rows"].replace(950, 2950))


def with_heads(few: float, words: float) -> pd.DataFrame:
    """An encoder's methods, its head of class means, and a decoder that is asked in words."""
    encoder = few_and_many(world(full=0.05, head=few), "full", "head", "bitfit", "lora_all")
    means = few_and_many(world(head=0.1), "head", head="prototype")
    decoder = few_and_many(world(lora=words), "lora", head="pattern", model="decoder")
    return pd.concat([encoder, means, decoder], ignore_index=True)


def test_how_many_labels() -> None:
    found = judged(labels.STUDY, with_heads(few=0.06, words=0.2))
    outcomes = [verdict.outcome for verdict in found.values()]
    assert outcomes == ["contradicted", *["confirmed"] * 4]
    parts = found[labels.LITTLE_IS_ENOUGH.name].finding.parts
    assert set(parts) == {
        f"{name} model=tiny - full model=tiny at {amount} labels" for name in ("bitfit", "lora_all")
        for amount in (100, 300)
    }  # fmt: skip
    assert list(found[labels.FULL_PAYS.name].finding.parts) == [
        "full model=tiny - bitfit model=tiny at 3,000 labels"
    ]
    assert list(found[labels.WORDS.name].finding.parts) == [
        "lora model=decoder head=pattern - full model=tiny at 100 labels"
    ]

    found = judged(labels.STUDY, with_heads(few=-0.1, words=-0.2))
    assert found[labels.HEAD_IS_ENOUGH.name].outcome == "contradicted"
    assert found[labels.WORDS.name].outcome == "contradicted"


@pytest.mark.parametrize("names", [("a", "z"), ("z", "a")])
def test_words_must_beat_every_other_model(names: tuple[str, str]) -> None:
    weak, strong = (few_and_many(world(full=gain), "full", model=name)
                    for gain, name in zip((0.0, 0.2), names, strict=True))  # fmt: skip
    words = few_and_many(world(lora=0.1), "lora", head="pattern", model="m")
    found = judged(labels.STUDY, pd.concat([weak, strong, words], ignore_index=True))
    assert found[labels.WORDS.name].outcome == "contradicted"
    assert len(found[labels.WORDS.name].finding.parts) == 2


def test_two_sets_of_weights_of_one_name_stay_two_models() -> None:
    one, two = of_models({"a": 0.0}), of_models({"a": 0.1}, fingerprint="tuned further")
    both = pd.concat([one, two.assign(cell="2" + two["cell"])], ignore_index=True)
    mixed = rankings.gather(both, mix=["model"])
    assert len(mixed.runs) == len(both)
    assert {name.partition(" fingerprint=")[2] for name in mixed.runs["method"]} == {
        "weights of a", "tuned further",
    }  # fmt: skip


BAD = {
    "one model": (["models", "{one}"], "nothing for models to judge: runs of two models"),
    "names": (["paper1", "{one}", "--mix", "model"], "unknown --mix model"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_judged_is_said(tmp_path: Path, arguments: list[str], message: str) -> None:
    one = tmp_path / "runs.parquet"
    of_models({"only": 0.0}).to_parquet(one)
    given = [argument.format(one=one) for argument in arguments]
    result = call(*given, f"--out={tmp_path / 'page.md'}", command="verdicts")
    assert result.returncode == 1
    assert message in result.stderr
    assert not (tmp_path / "page.md").exists()


def test_what_was_not_run_is_not_tested() -> None:
    found = judged(labels.STUDY, few_and_many(world(), "full", "head"))
    outcomes = {name: verdict.outcome for name, verdict in found.items()}
    tested = {name for name, outcome in outcomes.items() if outcome != "not tested"}
    assert tested == {labels.HEAD_IS_ENOUGH.name}


def test_the_pages_mix_what_they_compare(tmp_path: Path) -> None:
    of_models().to_parquet(tmp_path / "models.parquet")
    with_heads(few=0.06, words=0.2).to_parquet(tmp_path / "labels.parquet")
    for study, claims in (("models", 2), ("labels", 5)):
        out = tmp_path / f"{study}.md"
        given = [study, str(tmp_path / f"{study}.parquet"), f"--out={out}"]
        result = call(*given, command="verdicts")
        assert result.returncode == 0, result.stderr
        text = out.read_text(encoding="utf-8")
        assert f"Of {claims} claims: " in text
        assert "## several models, " in text
