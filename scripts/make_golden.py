"""Write tests/golden: what the adapters library computes, for tests/test_parity.py to compare with.

The library pins an older transformers, so it lives in an environment of its own:

    python -m venv adapters-env
    adapters-env/bin/pip install torch==2.13.0 adapters==1.3.0
    adapters-env/bin/python scripts/make_golden.py

A small random BERT classifier is shared by all methods (backbone.safetensors). Each method's file
holds what the library adds to it, drawn at random away from its start, the logits, the gradients of
the cross-entropy, and as metadata the library's own configuration.
"""

import json
from pathlib import Path

import adapters
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import BertConfig, BertForSequenceClassification

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
NAME = "golden"  # the adapter's name, a part of its tensors' names
REDUCTION = {"double_seq_bn": 4, "seq_bn": 4, "par_bn": 2, "compacter": 4}  # widths 8, 8, 16, 8
STD = {"compacter": 0.6}  # a product of three random factors; with 0.2 it would hardly do anything
ARCHITECTURE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,  # the usual 0.02 leaves effects too small to see in two layers
    "num_labels": 2,
}
LENGTHS = (9, 6)  # the second row is padded


def backbone() -> BertForSequenceClassification:
    """The plain model, the same at every call; its biases and norms are random too."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**ARCHITECTURE)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                parameter += torch.randn_like(parameter) * 0.1
    return model


def inputs() -> dict[str, Tensor]:
    """Two rows of different lengths, each of two segments."""
    torch.manual_seed(1)
    batch, longest = len(LENGTHS), max(LENGTHS)
    mask = (torch.arange(longest) < torch.tensor(LENGTHS)[:, None]).long()
    types = (torch.arange(longest) >= 4).long().expand(batch, -1)
    return {
        "input_ids": torch.randint(1, ARCHITECTURE["vocab_size"], (batch, longest)) * mask,
        "attention_mask": mask,
        "token_type_ids": types * mask,
        "labels": torch.arange(batch),
    }


def added(model: nn.Module, method: str) -> tuple[dict[str, nn.Parameter], dict[str, object]]:
    """Let the library add its method; what it added, drawn at random, and its configuration."""
    plain = {name for name, _ in model.named_parameters()}
    adapters.init(model)
    config = adapters.AdapterConfig.load(method, reduction_factor=REDUCTION[method])
    model.add_adapter(NAME, config=config)
    model.train_adapter(NAME)  # freezes the backbone, activates the adapter
    model.eval()
    new = {name: value for name, value in model.named_parameters() if name not in plain}
    torch.manual_seed(2)
    for parameter in new.values():
        nn.init.normal_(parameter, std=STD.get(method, 0.2))
    return new, config.to_dict()


def golden(method: str) -> None:
    """Compute one method and write its file."""
    model, batch = backbone(), inputs()
    with torch.no_grad():
        before = model(**batch).logits
    new, config = added(model, method)
    output = model(**batch)
    output.loss.backward()
    if (output.logits - before).abs().max() < 0.05:
        raise RuntimeError(f"{method} hardly changes the logits")
    tensors = {f"adapter/{name}": value.detach() for name, value in new.items()}
    tensors |= {f"gradient/{name}": value.grad for name, value in new.items()}
    tensors |= {"output/logits": output.logits.detach(), "output/logits_before": before}
    write(method, tensors, config)


def reft() -> None:
    """Compute LoReFT and write its file; in it stands R itself, not what it is a function of."""
    model, batch = backbone(), inputs()
    with torch.no_grad():
        before = model(**batch).logits
    adapters.init(model)
    about = {"r": 2, "prefix_positions": 3, "suffix_positions": 2, "dropout": 0.0}
    config = adapters.LoReftConfig(**about)
    model.add_adapter(NAME, config=config)
    model.train_adapter(NAME)
    model.eval()
    torch.manual_seed(2)
    added = {name: p for name, p in model.named_parameters() if ".refts." in name}
    with torch.no_grad():
        for name, parameter in added.items():
            drawn = torch.randn_like(parameter) * 0.2
            # the reflections' lower triangle, transposed: its diagonal holds signs
            parameter.add_(drawn.triu(1) if "parametrizations" in name else drawn)
    with parametrize.cached():
        units = {name: m for name, m in model.named_modules() if name.endswith(".projection")}
        values = {f"{name}.weight": m.weight for name, m in units.items()}
        for value in values.values():
            value.retain_grad()
        values |= {name: p for name, p in added.items() if ".learned_source." in name}
        output = model(**batch)
        output.loss.backward()
    if (output.logits - before).abs().max() < 0.05:
        raise RuntimeError("loreft hardly changes the logits")
    tensors = {f"adapter/{name}": value.detach() for name, value in values.items()}
    tensors |= {f"gradient/{name}": value.grad for name, value in values.items()}
    tensors |= {"output/logits": output.logits.detach(), "output/logits_before": before}
    write("loreft", tensors, config.to_dict())


def write(name: str, tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    """Write one file and say how large it is."""
    path = GOLDEN / f"{name}.safetensors"
    versions = {lib.__name__: str(lib.__version__) for lib in (adapters, torch, transformers)}
    about = json.dumps({"versions": versions, "config": config})  # one key: their order is random
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, {"about": about})
    print(f"{path.relative_to(GOLDEN.parents[1])}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Write every file."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    shared = {f"input/{name}": value for name, value in inputs().items()}
    shared |= {f"model/{name}": value for name, value in backbone().state_dict().items()}
    write("backbone", shared, ARCHITECTURE)
    for method in REDUCTION:
        golden(method)
    reft()


if __name__ == "__main__":
    main()
