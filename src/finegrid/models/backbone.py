"""The pre-trained encoder or decoder with its head: found, loaded, frozen, fingerprinted."""

import copy
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from finegrid.config import ModelConfig
from finegrid.errors import UserError, require
from finegrid.models import chat, decoder, pretrained, surgery
from finegrid.models.sites import Sites
from finegrid.seeds import forked
from finegrid.storage import hub, paths
from finegrid.storage.hub import WAYS_OUT

HEAD = "AutoModelForSequenceClassification"  # the class that knows a head, if no other is named
LM_HEADS = ("AutoModelForCausalLM", "AutoModelForMaskedLM")  # pre-trained ones, never drawn


@dataclass(frozen=True)
class Backbone:
    """A model whose base is frozen and whose fresh head trains, with the base's anatomy."""

    model: PreTrainedModel
    sites: Sites
    fingerprint: str  # of the base model's weights as loaded, without what was drawn
    revision: str  # commit of the hub repository, or empty for local files
    language_model: bool = False  # whether its head is a language model's, as pre-trained
    source: ModelConfig | None = None  # what it was built from

    def sharing(self, *, seed: int | None = None) -> "Backbone":
        """A copy whose base's parameters lie in the same memory; its head is drawn from the seed.

        The base must be frozen still. What of the copy is to train must `own` its memory first.
        """
        base, drawn = self.model.base_model, set(map(id, drawn_pooler(self.model).values()))
        memo: dict[int, Any] = {
            id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
            for parameter in base.parameters()
            if id(parameter) not in drawn
        }
        memo |= {id(buffer): buffer for buffer in base.buffers()}
        network, sites = copy.deepcopy((self.model, self.sites), memo)
        if seed is not None and not self.language_model:
            draw_head(network, seed)
        return replace(self, model=network, sites=sites)

    def train_tied_head(self) -> None:
        """Let a language-model head train where the embeddings that it is tied to do."""
        if not self.language_model:
            return
        output: Any = self.model.get_output_embeddings()
        embeddings: Any = self.model.get_input_embeddings()
        if output.weight is embeddings.weight and output.weight.requires_grad:
            surgery.unfreeze(p for module in _head(self.model) for p in module.parameters())

    def own(self) -> None:
        """Give what trains in the base memory of its own."""
        for parameter in surgery.trainable(self.model.base_model).values():
            parameter.data = parameter.data.clone()


def locate(model: ModelConfig) -> str:
    """The folder or hub id that a model loads from."""
    return paths.model(model.path)


def tokenizer(model: ModelConfig) -> Any:
    """The tokenizer beside the model's weights.

    Raises:
        UserError: if there is none to be had, or the model cannot read texts of that length.
    """
    _quieten()
    with _one_line(model):
        found = AutoTokenizer.from_pretrained(locate(model), **_source(model))
        require(
            not pretrained.has_no_vocabulary(found),
            "the tokenizer's vocabulary is missing (tokenizer.json, vocab.txt or *.model)",
        )
    require(
        isinstance(found.model_max_length, int | float),
        f"model_max_length={found.model_max_length!r:.40} in the tokenizer_config.json of "
        f"{model.name} is no number",
    )
    require(
        model.max_length <= found.model_max_length,
        f"model.max_length={model.max_length} exceeds the {found.model_max_length} tokens that "
        f"{model.name} can read",
    )
    between = separator(model)
    with _one_line(model):
        if model.chat_template == "own":
            require(between is not None, "model.chat_template=own is for decoders; use none")
        if between is not None:
            turn = chat.turn(found, model.max_length) if model.chat_template == "own" else None
            decoder.adapt_tokenizer(found, between, turn)
    return found


def separator(model: ModelConfig) -> str | None:
    """What stands between two texts of a row; None on an encoder, whose tokenizer separates them.

    Raises:
        UserError: for a setting that says otherwise.
    """
    if is_decoder(model):
        return decoder.SEPARATOR if model.separator is None else model.separator
    require(
        model.separator is None,
        f"model.separator is for decoders; the tokenizer of {model.name} separates texts itself",
    )
    return None


def build(model: ModelConfig, *, outputs: int, seed: int, auto_class: str = HEAD) -> Backbone:
    """Load the model in fp32, put a head of so many outputs on it, freeze the base.

    The head is drawn from `seed` alone, so it is the same for every method. So is a pooler that the
    checkpoint lacks: it counts as part of the head, trains with it and is stored with it.
    `auto_class` is the class of transformers that knows the head (see `tasks.task.Task`). One of
    `LM_HEADS` stays as pre-trained, whatever `outputs` says, and is frozen like the base: it trains
    only where it is tied to embeddings that a method trains. A decoder computes as
    `models.decoder` says: as a classifier of texts it reads the last token.

    Raises:
        UserError: if the files are missing, incomplete or of an unknown architecture.
    """
    _quieten()
    with forked(seed), _one_line(model):
        make = _pretrained if model.pretrained else _random
        network, revision = make(model, outputs, auto_class)
        pretrained.check_pass(network)
    lm = auto_class in LM_HEADS
    surgery.freeze(network if lm else network.base_model)
    if not lm:
        for parameter in drawn_pooler(network).values():
            parameter.requires_grad_(True)
        draw_head(network, seed)
    _keep_fp32(network)
    weights = fingerprint(network.base_model)
    sites = _sites(network, model)
    return Backbone(network, sites, weights, revision, language_model=lm, source=model)


def need_language_model(model: ModelConfig, auto_class: str) -> None:
    """Refuse a model without a language-model head, by the headers of its files if it has any here.

    Raises:
        UserError: naming the model.
    """
    _quieten()
    with _one_line(model):
        config = _architecture(model, outputs=2, auto_class=auto_class)
        folder = Path(locate(model))
        if model.pretrained and folder.is_dir():
            with torch.device("meta"):
                network = getattr(transformers, auto_class).from_config(config)
            pretrained.need_head(folder, network)


def _sites(network: PreTrainedModel, model: ModelConfig) -> Sites:
    if not model.sites:
        return Sites.of(network)
    causal = pretrained.is_decoder(network.config)
    return Sites(network, model.sites, network.base_model_prefix, decoder=causal)


def check_folder(model: ModelConfig) -> None:
    """Refuse a folder whose weights or tokenizer cannot be read; of the weights the headers tell.

    Raises:
        UserError: saying what is wrong with it.
    """
    with _one_line(model):
        pretrained.check_files(Path(locate(model)))
    tokenizer(model)


def is_decoder(model: ModelConfig) -> bool:
    """Whether a model is a causal decoder, by its YAML or config.json.

    Raises:
        UserError: if neither tells, or it is no model that can be tuned.
    """
    _quieten()
    with _one_line(model):
        return pretrained.is_decoder(_architecture(model, outputs=2, auto_class=HEAD))


def _quieten() -> None:
    """Let transformers report errors alone: what is missing of a checkpoint is checked here."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def outline(model: ModelConfig, *, outputs: int, auto_class: str = HEAD) -> Backbone:
    """The same as `build`, of shapes alone: on the meta device, without a look at the hub.

    Raises:
        UserError: if neither the model's YAML nor a folder of its files tells the architecture.
    """
    with _one_line(model), torch.device("meta"):
        network, _ = _random(replace(model, pretrained=False), outputs, auto_class)
    lm = auto_class in LM_HEADS
    surgery.freeze(network if lm else network.base_model)
    return Backbone(network, _sites(network, model), "", "", language_model=lm)


class Fp32Linear(nn.Linear):
    """A linear layer that autocast leaves in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b, in fp32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def draw_head(network: PreTrainedModel, seed: int) -> None:
    """Draw the head anew, as the architecture begins it, and a pooler that was missing.

    On the CPU, so that a seed is one head on every device; in a copy, since transformers leaves
    alone what it has marked as loaded.
    """
    pooler = network.base_model.pooler if drawn_pooler(network) else nn.Module()
    leaves = [module for module in pooler.modules() if not any(module.children())]
    with forked(seed), torch.no_grad():
        for module in (*_head(network), *leaves):
            plain = copy.deepcopy(module).cpu()
            network._init_weights(plain)
            module.load_state_dict(plain.state_dict())


def drawn_pooler(network: Any) -> dict[str, nn.Parameter]:
    """Name -> parameter of the base model's pooler, if the checkpoint had none."""
    drawn = getattr(getattr(network.base_model, "pooler", None), "drawn", False)
    return pretrained.pooler_parameters(network) if drawn else {}


def _keep_fp32(network: PreTrainedModel) -> None:
    """Let the head's matrices work in fp32: rounded to bf16, a label of 3 has steps of 0.016.

    And a language model's logit of 10 has steps of 0.06.
    """
    for module in _head(network):
        if type(module) is nn.Linear:
            module.__class__ = Fp32Linear


def _head(network: PreTrainedModel) -> Iterator[nn.Module]:
    """The leaves outside the base model."""
    inside = set(map(id, network.base_model.modules()))
    for module in network.modules():
        if id(module) not in inside and not any(module.children()):
            yield module


def fingerprint(module: Any) -> str:
    """Hash of the name, shape and bits of every parameter that was not drawn."""
    digest, drawn = hashlib.sha256(), set(map(id, drawn_pooler(module).values()))
    for name, parameter in sorted(module.named_parameters()):
        if id(parameter) in drawn:
            continue
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _pretrained(model: ModelConfig, outputs: int, auto_class: str) -> tuple[PreTrainedModel, str]:
    where, source = locate(model), _source(model)
    if Path(where).is_dir():
        pretrained.check_files(Path(where))
    config, auto = _architecture(model, outputs, auto_class), getattr(transformers, auto_class)
    network, info = auto.from_pretrained(
        where,
        **source,
        config=config,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation=_attention(config, auto),
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # of the head, which is drawn anew
    )
    lm = auto_class in LM_HEADS
    if pretrained.check_loaded(network, info, changed=bool(model.config), lm=lm):
        network.base_model.pooler.drawn = True
    _adapt(network)
    return network, str(getattr(network.config, "_commit_hash", None) or "")


def _random(model: ModelConfig, outputs: int, auto_class: str) -> tuple[PreTrainedModel, str]:
    """The same architecture from random weights: the control that shows what pre-training gives."""
    config, auto = _architecture(model, outputs, auto_class), getattr(transformers, auto_class)
    network = auto.from_config(
        config, dtype=torch.float32, attn_implementation=_attention(config, auto)
    )
    _adapt(network)
    return network, ""


def _adapt(network: PreTrainedModel) -> None:
    if pretrained.is_decoder(network.config):
        decoder.adapt(network)


def _architecture(model: ModelConfig, outputs: int, auto_class: str) -> Any:
    """What config.json says, or for random weights the model's YAML, with `model.config` in it."""
    if model.pretrained or not model.architecture or Path(locate(model)).is_dir():
        pretrained.need_no_adapter(Path(locate(model)))
        config = AutoConfig.from_pretrained(locate(model), **_source(model))
    else:
        config = AutoConfig.for_model(**model.architecture)
    pretrained.configure(
        config, model.config, outputs=outputs, auto_class=auto_class, sites=bool(model.sites)
    )
    return config


def _attention(config: Any, auto: Any) -> str:
    """Eager attention trains faster than SDPA on a CPU, where dropout rules out its fused path."""
    known = auto._model_mapping[type(config)]._supports_sdpa  # Gemma 2 caps its scores, for one
    return "sdpa" if torch.cuda.is_available() and known else "eager"


def _source(model: ModelConfig) -> dict[str, Any]:
    where = locate(model)
    name = where.removeprefix(paths.FETCH)
    require(name == where, f"is not on this machine; get it with `finegrid fetch {name}`")
    if not Path(where).is_dir():
        hub.go_offline_if_unreachable()
    return {"revision": model.revision, "trust_remote_code": False}


@contextmanager
def _one_line(model: ModelConfig) -> Iterator[None]:
    """Say of which model an error is; whatever a library raises at a checkpoint is one line."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, UserError) or Path(locate(model)).is_dir():
            told = str(error) if isinstance(error, UserError) else pretrained.reason(error)
            raise UserError(f"model {model.name} ({locate(model)}): {told}") from error
        raise _not_found(model, error) from error


def _not_found(model: ModelConfig, error: Exception) -> UserError:
    root = os.environ.get("FINEGRID_MODEL_DIR")
    tried = [f"the folder {model.path}"]
    tried += [f"a copy below FINEGRID_MODEL_DIR={root}"] if root else []
    tried += ["the hub and its cache (safetensors files only)"]
    reason = pretrained.reason(error)[:160]
    return UserError(
        f"model {model.name} not found or not loadable; tried {', '.join(tried)} ({reason}). "
        + WAYS_OUT.format(variable="FINEGRID_MODEL_DIR")
    )
