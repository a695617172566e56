"""Export to the peft library: adapter_config.json, adapter_model.safetensors and a model card.

peft counts a prefix as positions, so a text begins at position `length`; ours begins at 0. The
export of a prefix therefore brings the encoder's position table along, moved by `length` rows, and
texts may have `length` tokens less than the encoder has positions.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finegrid.errors import UserError
from finegrid.export import layout
from finegrid.export.layout import Inputs, Unfit, need
from finegrid.export.peft_updates import KINDS
from finegrid.export.verify import logits_from
from finegrid.inference import Restored
from finegrid.methods.ia3 import ScaleInput, ScaleOutput
from finegrid.methods.modules.prefix import Prefix
from finegrid.methods.modules.sparse_delta import SparseDifference
from finegrid.methods.prefix import ReparametrizedPrefix
from finegrid.methods.prompt import PromptSlots, PromptVectors
from finegrid.models.anatomy import is_norm

VERSION = "0.21.2"  # the one that this was tried with
USAGE = """```python
import torch
from peft import PeftModel
from transformers import {auto_class}, AutoTokenizer

folder = {folder!r}  # wherever these files lie now
model = {auto_class}.from_pretrained({base!r}, {loading})
model = PeftModel.from_pretrained(model, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.inference_mode():
    logits = model(**{example}).logits
```
{note}"""
PREFIX_NOTE = """
The prefix takes the first {length} positions: a text may have {length} tokens less than the encoder
has positions. The encoder's position table is part of this export, moved by {length} rows.
"""


@dataclass(frozen=True)
class Translation:
    """What peft calls a method: its config and its tensors, without those of the head."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    prefix: str = "base_model.model."  # of the names of `modules` and the head
    modules: dict[str, Tensor] = field(default_factory=dict)  # to save besides the head
    note: str = ""


class Peft:
    """For lora and its family, ia3, layernorm, prefix and prompt."""

    library = "peft"

    def check(self, run: Restored) -> None:
        """Refuse what peft has no type for."""
        layout.need_plain_base(run)
        _translate(run.model)

    def write(self, run: Restored, folder: Path) -> None:
        """Write config, tensors and the tokenizer.

        Raises:
            UserError: if the peft library is missing.
        """
        peft, translation, head = _library(), _translate(run.model), layout.head(run.model)
        saved = translation.modules | head
        modules = layout.head_modules(run.model)
        modules |= {name.rpartition(".")[0] for name in translation.modules}
        about: dict[str, Any] = {
            "base_model_name_or_path": layout.base_path(run),
            "revision": layout.revision(run),
        }
        causal = run.auto_class == "AutoModelForCausalLM"
        kind = "CAUSAL_LM" if causal else run.task.PEFT_TYPE
        about |= {"task_type": kind, "inference_mode": True}
        config = {"modules_to_save": sorted(modules)} | about | translation.config
        peft.get_peft_config(config).save_pretrained(folder)
        tensors = translation.tensors | {
            f"{translation.prefix}{name}": x for name, x in saved.items()
        }
        layout.write_tensors(folder / "adapter_model.safetensors", tensors)
        layout.save_tokenizer(run, folder)

    def usage(self, run: Restored, folder: Path) -> str:
        """Python that loads the plain encoder and these files with peft."""
        return USAGE.format(
            base=layout.base_path(run),
            auto_class=run.auto_class,
            folder=str(folder.resolve()),
            loading=layout.loading(run),
            example=layout.example(run),
            note=_translate(run.model).note,
        )

    def load_back(self, run: Restored, folder: Path, inputs: Inputs) -> tuple[Tensor, str]:
        """Logits of what the README's lines make of the plain encoder and the files."""
        version = _library().__version__
        return logits_from(layout.run_readme(folder), inputs), f"loaded back with peft {version}"


def _library() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise UserError(
            f"--to peft needs the peft library to check the export: pip install peft=={VERSION}"
        ) from error


def _translate(model: nn.Module) -> Translation:
    """The method as a type of peft.

    Raises:
        Unfit: naming what peft has no type for.
    """
    children = layout.injected(model)
    if not children:
        return _layernorm(model, layout.trained_in_place(model))
    for types, translate in TYPES:
        if all(type(child) in types for child in children.values()):
            layout.need_frozen(model)
            return translate(model, children)
    strange = [path for path, child in children.items() if type(child) not in KNOWN]
    path = (strange or list(children))[0]
    raise Unfit(f"peft has no type for {path} ({type(children[path]).__name__})")


def _layernorm(model: nn.Module, in_place: list[str]) -> Translation:
    """peft keeps a copy of each tuned norm, gain and shift alike."""
    need(bool(in_place), "nothing of the encoder trains, so there is no peft type for it")
    names = sorted({name.rpartition(".")[0] for name in in_place})
    for name in names:
        norm = is_norm(model.get_submodule(name))
        need(norm, f"{name} trains and is no norm, the only kind that peft tunes in place")
    tensors: dict[str, Tensor] = {
        f"base_model.model.{name}.ln_tuning_layers.{part}": value
        for name in names
        for part, value in model.get_submodule(name).named_parameters()
    }
    return Translation({"peft_type": "LN_TUNING", "target_modules": names}, tensors)


def _update(model: nn.Module, children: dict[str, Any]) -> Translation:
    """LoRA or a relative: the same settings at every site, and each update's tensors."""
    kind = KINDS[type(next(iter(children.values())))]
    every = {tuple(kind.settings(child).items()) for child in children.values()}
    need(len(every) == 1, f"its updates differ in their settings: {sorted(every)}")
    tensors = {
        f"base_model.model.{path.rpartition('.')[0]}.{name}": value
        for path, child in children.items()
        for name, value in kind.of(child).items()
    }
    config = {"peft_type": kind.peft_type, **dict(every.pop())}
    if kind.pattern:
        left = {path.rpartition(".")[0]: kind.pattern(child) for path, child in children.items()}
        config["rank_pattern"] = {f"{site}.lora_E": ranks for site, ranks in left.items()}
    return Translation(config | {"target_modules": _sites(children)}, tensors)


def _shira(model: nn.Module, children: dict[str, Any]) -> Translation:
    """peft has r (in + out) entries of each matrix, whose values and places the file holds."""
    ranks, tensors = set(), {}
    for path, child in children.items():
        name = path.rpartition(".")[0]
        plain = isinstance(model.get_submodule(name), nn.Linear) and len(child.shape) == 2
        need(plain, f"peft has sparse entries of an nn.Linear's weight alone, not of {path}")
        ranks.add(len(child.places) / sum(child.shape))
        places = torch.stack([child.places // child.shape[1], child.places % child.shape[1]])
        tensors[f"base_model.model.{name}.shira_weight"] = child.values
        tensors[f"base_model.model.{name}.shira_indices"] = places.int()
    rank = max(ranks)
    need(
        len(ranks) == 1 and rank.is_integer(),
        "peft has r (in + out) sparse entries of each matrix, with one whole number r",
    )
    config = {"peft_type": "SHIRA", "r": int(rank), "target_modules": _sites(children)}
    return Translation(config, tensors)


def _ia3(model: nn.Module, children: dict[str, Any]) -> Translation:
    """peft's vector is a row before a Linear and a column after it."""
    before = {path: child for path, child in children.items() if type(child) is ScaleInput}
    tensors = {
        f"base_model.model.{path.removesuffix('.ia3')}.ia3_l": (
            child.scale[None] if path in before else child.scale[:, None]
        )
        for path, child in children.items()
    }
    config = {"peft_type": "IA3", "target_modules": _sites(children)}
    return Translation(config | {"feedforward_modules": _sites(before)}, tensors)


def _prefix(model: Any, children: dict[str, Any]) -> Translation:
    """peft keeps one row for each position: key and value of layer 0, of layer 1, and so on."""
    layers = model.config.num_hidden_layers
    need(
        len(children) == layers, "peft has a prefix of its own in every layer; here some have none"
    )
    need(all(child.gate is None for child in children.values()), "peft's prefix has no gate")
    pairs = [tensor for child in children.values() for tensor in child.pair()]
    rows = torch.cat(pairs, dim=1)  # length, 2 H layers
    length, width = pairs[0].shape
    name = f"{layout.base_prefix(model)}embeddings.position_embeddings"
    table = dict(model.named_modules()).get(name)
    need(table is not None, f"{model.config.model_type} has no table of positions to move")
    return Translation(
        {"peft_type": "PREFIX_TUNING"} | _virtual(model, length, width),
        {"prompt_embeddings": rows},
        prefix="base_model.",
        modules={f"{name}.weight": _moved(table, length)},
        note=PREFIX_NOTE.format(length=length),
    )


def _moved(table: Any, rows: int) -> Tensor:
    """The table of positions with every position so many rows further down."""
    first = 0 if table.padding_idx is None else table.padding_idx + 1
    moved: Tensor = table.weight.detach().clone()
    moved[first + rows :] = table.weight[first : len(table.weight) - rows]
    return moved


def _prompt(model: Any, children: dict[str, Any]) -> Translation:
    vectors = [child.vectors for child in children.values() if isinstance(child, PromptVectors)]
    room = next(child for child in children.values() if isinstance(child, PromptSlots))
    need(room.stays or room.start > 0, "peft reads a decoder at the padding behind a prompted text")
    need(room.start == 0, "peft puts a prompt in front: only a run with method.place=front fits")
    need(len(vectors) == 1, "peft has no prompt in deeper layers (method.deep=true)")
    config = {"peft_type": "PROMPT_TUNING"} | _virtual(model, *vectors[0].shape)
    return Translation(config, {"prompt_embeddings": vectors[0]}, prefix="base_model.")


def _virtual(model: Any, length: int, width: int) -> dict[str, Any]:
    """What peft asks of everything that counts as tokens."""
    return {
        "num_virtual_tokens": length,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": model.config.num_attention_heads,
        "num_layers": model.config.num_hidden_layers,
    }


def _sites(children: Iterable[str]) -> list[str]:
    """The modules that children hang at."""
    return [path.rpartition(".")[0] for path in children]


TYPES: tuple[tuple[set[type], Callable[[nn.Module, dict[str, Any]], Translation]], ...] = (
    *(({kind}, _update) for kind in KINDS),
    ({SparseDifference}, _shira),
    ({ScaleOutput, ScaleInput}, _ia3),
    ({Prefix, ReparametrizedPrefix}, _prefix),
    ({PromptSlots, PromptVectors}, _prompt),
)
KNOWN: set[type] = set().union(*(types for types, _ in TYPES))
