"""Shared by all export formats: a run's head, injected modules, README and files."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig

from finegrid.data.tokenization import encode, padding_of
from finegrid.errors import UserError
from finegrid.inference import Restored
from finegrid.models import backbone, pretrained, surgery
from finegrid.storage import paths
from finegrid.training.limits import Limits

README = "README.md"
Inputs = dict[str, Tensor]  # input_ids, attention_mask and, where the model has them, token types


class Unfit(UserError):
    """A run that a layout has no place for; says what of the run."""


class Layout(Protocol):
    """Another project's files for one run."""

    library: str  # that loads them, as the hub calls it

    def check(self, run: Restored) -> None:
        """Raise `Unfit` for a run without a place in this layout."""

    def write(self, run: Restored, folder: Path) -> None:
        """Write the files into an empty folder; the run's model may be used up by it."""

    def usage(self, run: Restored, folder: Path) -> str:
        """How a user loads the files, as Markdown with Python in it."""

    def load_back(self, run: Restored, folder: Path, inputs: Inputs) -> tuple[Tensor, str]:
        """Logits of what a user gets from the files, and in words how they were loaded."""


def need(condition: bool, message: str) -> None:
    """Raise `Unfit(message)` unless the condition holds."""
    if not condition:
        raise Unfit(message)


def base_prefix(model: Any) -> str:
    """What the names of the encoder's tensors begin with."""
    return f"{model.base_model_prefix}."


def head(model: nn.Module) -> dict[str, Tensor]:
    """The tensors outside the encoder, by name, and those of a pooler that was drawn."""
    prefix, drawn = base_prefix(model), backbone.drawn_pooler(model)
    return {
        name: value.contiguous()
        for name, value in model.state_dict().items()
        if name in drawn or not name.startswith(prefix)
    }


def head_modules(model: nn.Module) -> set[str]:
    """The modules that the head's tensors lie in, such as `classifier`."""
    drawn = backbone.drawn_pooler(model)
    tops = {name.split(".")[0] for name in head(model) if name not in drawn}
    return tops | ({f"{base_prefix(model)}pooler"} if drawn else set())


def injected(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> child of everything that the method injected."""
    return {
        f"{path}.{name}": site.get_submodule(name) for path, site, name in surgery.injected(model)
    }


def trained_in_place(model: nn.Module) -> list[str]:
    """Names of the encoder's own parameters that train, without a pooler that was drawn."""
    prefix = base_prefix(model)
    inside = (*(f"{path}." for path in injected(model)), *backbone.drawn_pooler(model))
    return [
        name
        for name in surgery.trainable(model)
        if name.startswith(prefix) and not name.startswith(inside)
    ]


def need_frozen(model: nn.Module) -> None:
    """Refuse a run that trains the encoder's own parameters besides what it injected."""
    for name in trained_in_place(model):
        raise Unfit(f"{name} trains too, and the files have no place for it")


def base_path(run: Restored) -> str:
    """Where the encoder comes from: a hub id, or the folder's full path."""
    folder = backbone.locate(run.config.model)
    plain = run.config.model.path
    local = paths.comes_with_finegrid(plain) or Path(plain).is_dir()
    return str(Path(folder).resolve()) if local else plain


def revision(run: Restored) -> str | None:
    """The commit of the encoder's hub repository, if it came from one."""
    return run.record.model_revision or None


def need_plain_base(run: Restored) -> None:
    """Refuse a run whose encoder is not simply what its path holds."""
    model = run.config.model
    need(model.pretrained, "its encoder started from random weights, which no path holds")
    changed = ", ".join(model.config)
    need(not model.config, f"its encoder was changed by model.config ({changed}) when it loaded")


def loading(run: Restored) -> str:
    """The arguments of `from_pretrained` beside the encoder's path, as Python source."""
    where, commit = backbone.locate(run.config.model), revision(run)
    stored: Any = AutoConfig.from_pretrained(where, revision=commit, trust_remote_code=False)
    arguments = [f"num_labels={run.task.outputs}", "dtype=torch.float32"]
    arguments += [f"revision={commit!r}"] if commit else []
    other = stored.num_labels != run.task.outputs and "Classif" in str(stored.architectures)
    arguments += ["ignore_mismatched_sizes=True"] if other else []
    arguments += [] if stored.return_dict else ["return_dict=True"]
    if pretrained.is_decoder(stored):  # whose classifiers are read before the first padding
        arguments.append(f"pad_token_id={padding_of(run.tokenizer)}")
    return ", ".join(arguments)


def example(run: Restored) -> str:
    """A call of the tokenizer on the task's columns, as Python's source."""
    between = backbone.separator(run.config.model)
    texts = [f"a text for {column!r}" for column in run.task.text_columns]
    given = ", ".join(map(repr, texts if between is None else [between.join(texts)]))
    longest = min(run.config.model.max_length, room(run))
    return f'tokenizer({given}, truncation=True, max_length={longest}, return_tensors="pt")'


def room(run: Restored) -> int:
    """Tokens of text that fit beside what the method puts in front of them in another library."""
    limits = Limits.of(run.model, run.config.model.name)
    taken = max((_length(child) for child in injected(run.model).values()), default=0)
    return int(min(limits.positions, run.config.model.max_length + taken)) - taken


def _length(child: Any) -> int:
    """Positions that an injected prompt or prefix takes."""
    return len(child.pair()[0]) if hasattr(child, "pair") else int(getattr(child, "length", 0))


def save_tokenizer(run: Restored, folder: Path) -> None:
    """Save the tokenizer so that it gives the model what the model takes."""
    tokens = encode(
        [["a"] for _ in run.task.text_columns], run.tokenizer, run.config.model.max_length
    )
    limits = Limits.of(run.model, run.config.model.name)
    if "token_type_ids" not in limits.fit({"a text": tokens})["a text"].fields:
        names = run.tokenizer.model_input_names
        run.tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    run.tokenizer.init_kwargs.pop("auto_map", None)  # no remote code is passed on
    run.tokenizer.save_pretrained(folder)


def run_readme(folder: Path) -> nn.Module:
    """The model that a README's Python block makes; the block is run as it is written.

    Raises:
        UserError: with what went wrong.
    """
    text = (folder / README).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(text.split("```python\n")[1].split("```")[0], names)
    except Exception as error:  # whatever a library raises, the export is of no use
        raise UserError(f"the export cannot be used: {pretrained.reason(error)}") from error
    model: nn.Module = names["model"]
    return model


def label_names(run: Restored) -> dict[int, str]:
    """Class names by number; a regression has one output, unnamed."""
    return dict(enumerate(run.task.labels or ["LABEL_0"]))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file for people to read too."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write fp32 tensors as safetensors."""
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})
