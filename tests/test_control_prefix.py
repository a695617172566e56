"""Control prefixes: an attribute of a row chooses keys and values beside the general ones."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import composed, run_cell, tuning_method
from omegaconf import OmegaConf
from test_decoders import TEXT, logits, padded, small
from test_identity import cell
from test_methods import TASK, encoded_for, fresh
from torch import Tensor

from finegrid.api.run import load
from finegrid.config import RunConfig
from finegrid.data.batching import TokenizedDataset
from finegrid.errors import UserError
from finegrid.inference import predict_file, restore
from finegrid.methods.control_prefix import ControlledPrefix
from finegrid.methods.modules.prefix import Prefix
from finegrid.models.attention import _widened
from finegrid.models.backbone import Backbone
from finegrid.runs import delta, identity
from finegrid.tasks.task import Task
from finegrid.training.components import check_settings

SHORT = ("model=tiny", "trainer=cpu", "budget=steps", "budget.steps=2", "evaluations=1")
VALUES = ["cars", "ships"]


def attributed(kind: str) -> Backbone:
    """A small model with prefixes for two values, moved away from their start."""
    task: Task = replace(TASK, attribute="about", attribute_values=VALUES)
    base = fresh() if kind == "tiny" else small(kind)
    base.model.eval()
    method = tuning_method("method=control_prefix", "method.length=4", "method.control_length=2")
    method.read_task(task)
    method.tune(base, seed=0)
    return base


def prefixed(kind: str, like: Backbone, value: int | None) -> Backbone:
    """The same model with plain prefixes, of a value and general or of these alone."""
    base = fresh() if kind == "tiny" else small(kind)
    base.model.eval()
    length = 4 if value is None else 6
    tuning_method("method=prefix", f"method.length={length}").tune(base, seed=0)
    theirs = [m for m in like.model.modules() if isinstance(m, ControlledPrefix)]
    ours = [m for m in base.model.modules() if isinstance(m, Prefix)]
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            for name in ("key", "value"):
                general = getattr(other, name)
                more = [] if value is None else [getattr(other, f"control_{name}")[value]]
                getattr(mine, name).copy_(torch.cat([*more, general]))
    return base


@pytest.mark.parametrize("kind", ["tiny", "llama", "gpt2"])
def test_each_row_sees_its_values_prefix_and_the_general_one(kind: str) -> None:
    """As prefix tuning with the same keys; a row of an unknown value has the general ones alone."""
    base, batch = attributed(kind), padded(TEXT)
    with torch.no_grad():
        for parameter in base.model.base_model.parameters():
            if parameter.requires_grad:
                parameter.mul_(20)  # prefixes of 0.02 hardly change a logit
    together = logits(base.model, batch | {"attribute": torch.tensor([1, -1, 0])})
    for row, value in enumerate((1, None, 0)):
        alone = logits(prefixed(kind, base, value).model, padded([TEXT[row]]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
    assert (together - logits(base.model, batch)).abs().max() > 1e-4, "none tells of no value"


def test_a_mask_of_queries_and_keys_alone_hides_keys_by_row() -> None:
    seen = torch.tensor([[True, True], [False, True]])
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    widened = _widened(causal, 2, seen)
    assert widened is not None
    assert widened.shape == (2, 1, 3, 5)
    assert widened[1, 0].tolist() == [[False, True, *row] for row in causal.tolist()]
    added = _widened(torch.zeros(1, 1, 1, 3), 2, seen)
    assert added is not None
    assert (added[:, 0, 0] < -1e30).tolist() == [[False] * 5, [True] + [False] * 4]


def test_batches_hold_the_numbers_of_the_values() -> None:
    method = tuning_method("method=control_prefix")
    method.read_task(replace(TASK, attribute="about", attribute_values=VALUES))
    rows = encoded_for("tiny")
    rows = TokenizedDataset(_of(rows, ["ships", None, "cars", "trains"] * 4), rows.tokens)
    method.add_inputs(rows)
    assert rows.batch([0, 1, 2, 3])["attribute"].tolist() == [1, -1, 0, -1]
    assert rows.batch([2, 0])["attribute"].tolist() == [0, 1]


def _of(rows: TokenizedDataset, attributes: list[str | None]) -> Any:
    from finegrid.data.examples import Examples

    return Examples((["a"] * 16,), rows.numbers, list(range(16)), attributes)


def written(path: Path, rows: int, values: list[str]) -> Path:
    """A file whose column `about` goes through some values."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["message", "team", "about"])
        for i in range(rows):
            writer.writerow([f"the dog sees cat {i}", f"t{i % 2}", values[i % len(values)]])
    return path


def test_a_run_learns_the_values_of_its_training_rows(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.csv", 60, ["cars", "ships", ""])
    task = ("task=custom", f"task.train={rows}", "task.text=message", "task.label=team")
    run = tmp_path / "run"
    record = run_cell(run, *task, "task.attribute=about", "method=control_prefix", *SHORT)
    assert record.status == "ok", record.error
    assert delta.metadata(run / delta.FILE)[delta.VALUES] == ["cars", "ships"]
    shapes = {name: tuple(value.shape) for name, value in _tensors(run).items()}
    controls = [shape for name, shape in shapes.items() if name.endswith("control_key")]
    assert [shape[:2] for shape in controls] == [(2, 3)] * 3
    new = written(tmp_path / "new.csv", 4, ["ships", "trains"])
    assert predict_file(run, new, tmp_path / "out.csv") == 4
    new.write_text(new.read_text(encoding="utf-8").replace("about", "other"), encoding="utf-8")
    with pytest.raises(UserError, match="finegrid predict the attribute's column of a file"):
        predict_file(run, new, tmp_path / "out2.csv")
    with pytest.raises(UserError, match="reads an attribute of each row"):
        restore(run).outputs((["a text"],))
    loaded, texts = load(run), ["a text", "a text"]
    told = loaded.predict(texts, attribute=["ships", None])
    table = pd.DataFrame({"message": texts, "about": ["ships", ""]})
    pd.testing.assert_frame_equal(loaded.predict(table), told)
    assert not np.allclose(told.iloc[0, 1:].astype(float), told.iloc[1, 1:].astype(float), atol=0)
    with pytest.raises(UserError, match="attribute= has 1 values for 2 rows"):
        loaded.predict(texts, attribute=["ships"])


def _tensors(run: Path) -> dict[str, Tensor]:
    return delta.state(restore(run).model)


@pytest.mark.parametrize(
    ("more", "why"),
    [((), "name its column"), (("+task.attribute=label",), "is the label"),
     (("task=e2e_cleaned", "model=tiny_llama", "+task.attribute=x"), "does not fit task.kind=")],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_loads(
    more: tuple[str, ...], why: str
) -> None:
    settings = ("task=builtin_paraphrase", "model=tiny", "method=control_prefix", *more)
    with pytest.raises(UserError, match=why) as caught:
        check_settings(RunConfig.of(composed(*settings)))
    assert "\n" not in str(caught.value)


def test_no_attribute_is_the_cell_as_it_was(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.csv", 4, VALUES)
    task = ("task=custom", f"task.train={rows}", "task.text=message", "task.label=team")
    plain: Any = OmegaConf.to_container(composed(*task), resolve=True)
    assert plain["task"].pop("attribute") is None
    assert identity.cell(plain) == cell(*task) != cell(*task, "task.attribute=about")
    assert cell("+task.attribute=null") == cell()
