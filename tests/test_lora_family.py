"""LoRA's family computes what the peft library computes, on an encoder and on a decoder.

Every tensor that peft trains below the head has its counterpart in ours and the other way round;
moved at random from where they start, the same numbers give the same logits and gradients.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import composed, tuning_method
from test_decoders import TEXT, padded, small
from test_parity import close, count, plain, tuned
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from finegrid.config import OptimConfig, RunConfig
from finegrid.errors import UserError
from finegrid.methods.bitfit import BitFit
from finegrid.methods.compose import Compose
from finegrid.methods.lora import LoRAPlus
from finegrid.models import surgery
from finegrid.models.backbone import Backbone
from finegrid.models.sites import Sites
from finegrid.tasks.classification import Classification
from finegrid.training.components import prepare
from finegrid.training.module import FineTuner

Tensors = dict[str, Tensor]
EVERY = {  # every matrix of the layers
    "encoder": r".*\.layer\.\d+\..*(query|key|value|dense)",
    "decoder": r".*layers\.\d+\..*_proj",
}
TWO = {"encoder": r".*(query|value)", "decoder": r".*(q_proj|v_proj)"}


def backbone(kind: str) -> tuple[PreTrainedModel, Any]:
    """A small model, frozen and without dropout, and a batch with labels and padding."""
    if kind == "encoder":
        return plain()
    model = small("llama").model
    surgery.freeze(model.base_model)
    return model, padded(TEXT) | {"labels": torch.tensor([0, 1, 2])}


@dataclass(frozen=True)
class Twin:
    """One of our methods and the peft configuration that means the same."""

    theirs: dict[str, Any]
    parts: dict[str, str]  # our name below the site -> theirs
    ours: tuple[str, ...] = ()
    targets: dict[str, str] = field(default_factory=lambda: TWO)
    frozen: str = " "  # what of theirs does not train here

    def find(self, name: str, theirs: Tensors) -> Tensor:
        """Theirs of our name."""
        part = next(part for part in self.parts if name.endswith(f".{part}"))
        site = name.removesuffix(f".{part}")
        value = theirs[f"base_model.model.{site}.{self.parts[part]}"]
        return value.flatten() if part == "adalora.values" else value  # a column there


def below(child: str, **parts: str) -> dict[str, str]:
    """Our names below a site -> theirs."""
    return {f"{child}.{ours}": theirs for ours, theirs in parts.items()}


def hada(which: str) -> str:
    """peft's name of a factor of LoHa."""
    return f"hada_w{which}.default"


A, B = "lora_A.default.weight", "lora_B.default.weight"
AB = below("lora", a=A, b=B)
LOW = ("method.rank=2", "method.alpha=6")
KRONECKER = below(
    "lokr", c="lokr_w1.default", d="lokr_w2.default", b="lokr_w2_a.default", a="lokr_w2_b.default"
)
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 12}
RANK = ("method.rank=4", "method.alpha=12")
TWINS = {
    "lora": Twin(LORA, AB, RANK),
    "lora_all": Twin(LORA, AB, RANK, EVERY),
    "rslora": Twin(LORA | {"use_rslora": True}, AB, RANK),
    "lora_plus": Twin(LORA, AB, RANK),
    "lora_fa": Twin(LORA, AB, RANK, frozen=".lora_A."),
    "dora": Twin(
        LORA | {"use_dora": True},
        below("dora", a=A, b=B, magnitude="lora_magnitude_vector.default.weight"),
        RANK,
    ),
    "adalora": Twin(
        {"peft_type": "ADALORA", "init_r": 4, "target_r": 2, "lora_alpha": 12, "total_step": 9},
        below("adalora", left="lora_B.default", values="lora_E.default", right="lora_A.default"),
        ("method.initial_rank=4", "method.rank=2", "method.alpha=12"),
    ),
    "pissa": Twin(LORA | {"init_lora_weights": "pissa"}, below("pissa", a=A, b=B), RANK),
    "vera": Twin(
        {"peft_type": "VERA", "r": 6},
        below("vera", d="vera_lambda_d.default", b="vera_lambda_b.default"),
        ("method.rank=6",),
        EVERY,
    ),
    "loha": Twin(
        {"peft_type": "LOHA", "r": 4, "alpha": 12},
        below("loha", b1=hada("1_a"), a1=hada("1_b"), b2=hada("2_a"), a2=hada("2_b")),
        RANK,
    ),
    "lokr": Twin({"peft_type": "LOKR", "r": 2, "alpha": 6}, KRONECKER, LOW, EVERY),
    "hira": Twin(
        {"peft_type": "HIRA", "r": 4},
        below("hira", a="hira_A.default", b="hira_B.default"),
        ("method.rank=4",),
    ),
    "fourierft": Twin(
        {"peft_type": "FOURIERFT", "n_frequency": 50, "scaling": 150.0},
        below("fourierft", spectrum="fourierft_spectrum.default"),
        ("method.frequencies=50",),
        EVERY,
    ),
    "miss": Twin(
        {"peft_type": "MISS", "r": 5},
        below("miss", d="miss_block.default"),
        ("method.rank=5",),
        EVERY,
    ),
    "oft": Twin(
        {"peft_type": "OFT", "oft_block_size": 8, "use_cayley_neumann": False},
        below("oft", q="oft_R.default.weight"),
        ("method.block=8",),
        EVERY,
    ),
    "shira": Twin(
        {"peft_type": "SHIRA", "r": 4, "random_seed": 3},
        below("shira", values="shira_weight.default"),
        ("method.rank=4",),
    ),
    "randlora": Twin(
        {"peft_type": "RANDLORA", "r": 5, "randlora_alpha": 20},
        below("randlora", by_rank="randlora_lambda.default", by_unit="randlora_gamma.default"),
        ("method.rank=5", "method.alpha=20"),
        EVERY,
    ),
}


def both(name: str, kind: str) -> tuple[PreTrainedModel, Any, Any, Tensors]:
    """Ours, theirs with the same numbers, the batch, and what of theirs trains below the head."""
    peft, twin = pytest.importorskip("peft"), TWINS[name]
    model, batch = backbone(kind)
    targets = {"target_modules": twin.targets[kind], "task_type": "SEQ_CLS"}
    torch.manual_seed(0)
    config = peft.get_peft_config(copy.deepcopy(twin.theirs) | targets)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    heads = (".classifier.", ".score.")
    trained = {
        key: parameter
        for key, parameter in theirs.named_parameters()
        if parameter.requires_grad and not any(head in key for head in heads)
    }
    every = ["method.roles=null"] if twin.targets is EVERY else []
    tuned(model, f"method={name}", *every, *twin.ours)
    same_places(model, theirs)
    with torch.no_grad():
        for value in trained.values():
            value += torch.randn_like(value) * 0.2
        for path, site, child in surgery.injected(model):
            for part, value in site.get_submodule(child).named_parameters():
                value.copy_(twin.find(f"{path}.{child}.{part}", trained))
    for key in list(trained):
        if twin.frozen in key:
            trained.pop(key).requires_grad_(False)
    return model, theirs, batch, trained


def same_places(model: PreTrainedModel, theirs: Any) -> None:
    """Let single weights be those that peft drew, which ours draws from a run's seed."""
    for path, site, child in surgery.injected(model):
        if child == "shira":
            rows, columns = theirs.base_model.model.get_submodule(path).shira_indices["default"]
            site.get_submodule(child).move(rows.long() * site.in_features + columns.long())


def backward(logits: Tensor, batch: Tensors) -> None:
    """The gradients of the mean cross entropy."""
    functional.cross_entropy(logits, batch["labels"]).backward()


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", TWINS)
def test_peft_library(name: str, kind: str) -> None:
    model, theirs, batch, trained = both(name, kind)
    assert count(dict(surgery.trainable(model.base_model))) == count(trained)  # type: ignore[arg-type]
    with torch.no_grad():
        start = model(**batch).logits
    expected = theirs(**batch).logits
    backward(expected, batch)
    found = model(**batch).logits
    backward(found, batch)
    close(found, expected, "logits")
    gradients = {key: value.grad for key, value in trained.items()}
    for path, parameter in surgery.trainable(model.base_model).items():
        key = f"{model.base_model_prefix}.{path}"
        close(parameter.grad, TWINS[name].find(key, gradients), key)
    with torch.no_grad():
        stock, _ = backbone(kind)
        assert (start - stock(**batch).logits).abs().max() > 1e-4, "it does something"


@pytest.mark.parametrize("name", TWINS)
def test_merged_weights_are_pefts(name: str) -> None:
    model, theirs, *_ = both(name, "encoder")
    surgery.merge(model)
    merged = theirs.merge_and_unload().state_dict()
    for key, value in model.base_model.state_dict().items():
        close(value, merged[f"{model.base_model_prefix}.{key}"], key)


def test_lora_plus_has_pefts_rates() -> None:
    model, theirs, _, trained = both("lora_plus", "encoder")
    from peft.optimizers import create_loraplus_optimizer

    made = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    wanted = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    method = tuning_method("method=lora_plus")
    task = Classification(name="t", text=["a"], metrics=["accuracy"], labels=["no", "yes"])
    optim = OptimConfig(
        lr=1e-3, head_lr=None, weight_decay=0.0, warmup=0.0, schedule="constant", clip=1.0
    )
    module = FineTuner(Backbone(model, Sites.of(model), "", ""), task, optim, seed=0)
    module.state.lr_ratio = method.lr_ratio  # as `components.prepare` does
    groups = module.configure_optimizers().param_groups
    found = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in surgery.trainable(model.base_model).items():
        key = f"{model.base_model_prefix}.{name}"
        assert found[id(parameter)] == pytest.approx(wanted[id(TWINS["lora"].find(key, trained))])
    assert all(found[id(p)] == 1e-3 for n, p in model.named_parameters() if "classifier" in n)


def test_a_run_learns_with_its_methods_ratios() -> None:
    settings = ("task=builtin_paraphrase", "model=tiny", "data.fraction=0.02")
    ratios = [
        prepare(RunConfig.of(composed(f"method={name}", *settings))).module.state.lr_ratio
        for name in ("lora_plus", "lora")
    ]
    assert [ratio("x.query.lora.b") for ratio in ratios] == [16.0, 1.0]
    assert [ratio("x.query.lora.a") for ratio in ratios] == [1.0, 1.0]


def test_members_of_a_composition_keep_their_ratios() -> None:
    both = Compose(members={"one": BitFit(), "two": LoRAPlus(ratio=4.0)})
    assert both.lr_ratio("x.query.lora.b") == 4
    assert both.lr_ratio("x.query.bias") == 1


def test_pissa_leaves_the_residual_of_the_truncated_weight() -> None:
    """Without its trained factors, the matrix is W less its largest singular values."""
    model, _ = backbone("encoder")
    (site, *_) = Sites.of(model)["query"]
    weight = site.module.weight.detach().clone()  # type: ignore[operator,union-attr]
    tuned(model, "method=pissa", "method.rank=3", "method.alpha=6")
    child = site.module.get_submodule("pissa")
    nn.init.zeros_(child.a)  # type: ignore[arg-type]
    values = torch.linalg.svdvals(weight + child.matrix().detach())  # type: ignore[operator]
    expected = torch.linalg.svdvals(weight)[3:]
    torch.testing.assert_close(values[: len(expected)], expected, rtol=0, atol=1e-5)
    assert torch.equal(site.module.weight, weight)  # type: ignore[arg-type]


def test_oft_keeps_lengths_and_dora_the_rows_norms() -> None:
    for name, size in (("oft", ["method.block=8"]), ("dora", ["method.rank=4"])):
        model, _ = backbone("encoder")
        (site, *_) = Sites.of(model)["query"]
        before = site.module.weight.detach().norm(dim=1)  # type: ignore[operator,union-attr]
        tuned(model, f"method={name}", *size)
        child = site.module.get_submodule(name)
        for part, value in child.named_parameters():
            if part != "magnitude":
                nn.init.normal_(value)
        child.fold(site.module)  # type: ignore[operator]
        after = site.module.weight.norm(dim=1)  # type: ignore[operator,union-attr]
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("dora method.rank=0", r"method\.rank=0 must lie in \[1, 32\]"),
        ("adalora method.initial_rank=33", r"method\.initial_rank=33 must lie in \[1, 32\]"),
        ("adalora method.rank=13", r"method\.rank=13 must lie in \[1, 12\]"),
        ("adalora method.t_final=0.9", r"t_init=0\.15 and method\.t_final=0\.9 are shares of"),
        ("adalora method.t_final=0", r"method\.t_final=0 are shares of"),
        ("adalora method.beta2=1", r"method\.beta2=1 must lie in \[0, 1\)"),
        ("adalora method.orthogonality=-1", r"method\.orthogonality=-1 is negative"),
        ("pissa method.rank=33", r"method\.rank=33 must lie in \[1, 32\]"),
        ("vera method.rank=0", r"method\.rank=0 must be at least 1"),
        ("randlora method.rank=0", r"method\.rank=0 must be at least 1"),
        ("loha method.rank=33", r"method\.rank=33 must lie in \[1, 32\]"),
        ("lokr method.rank=0", r"method\.rank=0 must lie in \[1, 32\]"),
        ("hira method.roles=[querry]", r"no role 'querry'"),
        ("fourierft method.frequencies=1025", r"frequencies=1025 must lie in \[1, 1024\]"),
        ("miss method.rank=33", r"method\.rank=33 must lie in \[1, 32\]"),
        ("oft method.block=5", r"method\.block=5 must be at least 2 and divide 32"),
        ("shira method.rank=20", r"rank=20 gives 1280 values and the matrix of query has 1024"),
        ("lora_plus method.ratio=0", r"method\.ratio=0 must be positive"),
        ("rslora method.dropout=1", r"method\.dropout=1 must lie in \[0, 1\)"),
    ],
)
def test_bad_input_is_one_clear_line(overrides: str, message: str) -> None:
    model, _ = plain()
    with pytest.raises(UserError, match=message) as raised:
        tuned(model, *f"method={overrides}".split())
    assert "\n" not in str(raised.value)
