"""Mixed precision: what stays in fp32."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import composed
from torch import nn
from torch.nn import functional

from finegrid.config import RunConfig, TrainerConfig
from finegrid.grid import job
from finegrid.kernels import linear as kernel
from finegrid.kernels.linear import patch
from finegrid.models import backbone, surgery
from finegrid.runs.spec import RunSpec
from finegrid.training import device

REAL = device.fast_bf16  # which other tests are not to meet


def test_the_heads_outputs_are_not_rounded_to_bf16() -> None:
    config = RunConfig.of(composed("model=tiny"))
    built = backbone.build(config.model, outputs=1, seed=0)
    ids = torch.randint(5, 600, (64, 12))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = built.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize(
    ("asked", "fast", "expected"),
    [("auto", True, "bf16-mixed"), ("auto", False, "32"), ("32", True, "32")],
)
def test_auto_is_bf16_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, asked: str, fast: bool, expected: str
) -> None:
    monkeypatch.setattr(device, "fast_bf16", lambda accelerator: fast)
    trainer = TrainerConfig(device="cpu", precision=asked, threads=None)
    assert device.precision(trainer) == expected


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that only the products of a test move on."""
    made = Clock()
    monkeypatch.setattr(device.time, "perf_counter", lambda: made.now)
    return made


@dataclass
class Clock:
    """Times products: fp32 takes a nanosecond an entry of the weight, bf16 a factor of it."""

    now: float = 0.0
    factor: float = 1.0  # of fp32's time
    calls: list[tuple[torch.dtype, int]] = field(default_factory=list)

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """A product that takes its time by this clock."""
        self.calls.append((x.dtype, weight.numel()))
        self.now += weight.numel() * 1e-9 * (self.factor if x.dtype == torch.bfloat16 else 1)
        return x


@pytest.mark.parametrize(
    ("factor", "fast"), [(0.5, True), (0.8, True), (0.9, False), (1.0, False), (3.0, False)]
)
def test_bf16_is_chosen_where_it_is_clearly_faster(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, factor: float, fast: bool
) -> None:
    clock.factor = factor
    monkeypatch.setattr(device, "_speedup", lambda threads: device.measured_speedup(clock.product))
    assert REAL(accelerator="cpu") == fast


def test_emulated_bf16_is_known_by_a_small_product(clock: Clock) -> None:
    clock.factor = 300
    assert device.measured_speedup(clock.product) == pytest.approx(1 / 300)
    assert {size for _, size in clock.calls} == {device.SMALL[1] * device.SMALL[2]}
    assert sum(dtype == torch.bfloat16 for dtype, _ in clock.calls) <= 1 + device.TRIES


def test_a_machine_is_measured_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: Clock
) -> None:
    monkeypatch.setenv("FINEGRID_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(device, "linear", clock.product)
    for factor in (0.5, 2.0):  # the second process meets the first one's answer
        clock.factor = factor
        assert device._speedup.__wrapped__(1) == pytest.approx(2)
    assert device._speedup.__wrapped__(2) == pytest.approx(0.5), "of so many threads"


def test_a_sweep_decides_once_whatever_its_machines_are_fast_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    auto = {"device": "cpu", "precision": "auto", "threads": None}
    for fast in (True, False):
        monkeypatch.setattr(device, "fast_bf16", lambda accelerator, fast=fast: fast)
        assert job.decided_precision(tmp_path, auto) == "bf16-mixed"
    assert job.decided_precision(tmp_path / "another", auto) == "32"
    assert job.decided_precision(tmp_path, auto | {"precision": 32}) == "32"
    cfg = composed("trainer=cpu")
    assert RunSpec.of(cfg, tmp_path, precision="bf16-mixed").config.trainer.precision == (
        "bf16-mixed"
    )
    assert RunSpec.of(cfg, tmp_path).config == RunConfig.of(cfg)


def test_measuring_draws_nothing() -> None:
    state = torch.get_rng_state()
    device.measured_speedup(torch.nn.functional.linear)
    assert torch.equal(state, torch.get_rng_state())


def small(kind: type[nn.Module], *sizes: int) -> nn.Module:
    torch.manual_seed(0)
    return kind(*sizes)


@pytest.mark.parametrize("made", [(nn.Linear, 8, 6), (nn.LayerNorm, 8)], ids=str)
def test_without_autocast_nothing_differs(made: tuple[type[nn.Module], int]) -> None:
    plain, fast = nn.Sequential(small(*made)), nn.Sequential(small(*made))
    patch(fast)
    x = torch.randn(3, 5, 8)
    assert torch.equal(plain(x), fast(x))


def test_a_frozen_matrix_is_cast_once_and_again_after_a_change() -> None:
    linear = nn.Sequential(small(nn.Linear, 8, 6))
    patch(linear)
    layer: Any = linear[0]
    layer.requires_grad_(False)
    x = torch.randn(3, 8)

    def outputs() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x), functional.linear(x, layer.weight, layer.bias)

    mine, plain = outputs()
    assert torch.equal(mine, plain)
    assert mine.dtype == torch.bfloat16
    assert layer.cached_weight(torch.bfloat16) is layer.cached_weight(torch.bfloat16)
    with torch.no_grad():
        layer.weight.mul_(2)
    mine, plain = outputs()
    assert torch.equal(mine, plain)
    layer.weight.data = layer.weight.data + 1  # a change that no version tells
    mine, plain = outputs()
    assert torch.equal(mine, plain)


def test_what_was_cast_in_evaluation_serves_training() -> None:
    linear = nn.Sequential(small(nn.Linear, 8, 6))
    patch(linear)
    layer: Any = linear[0]
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            layer(x.detach())
        layer(x).float().sum().backward()
    assert x.grad is not None
    assert layer.bias.grad is not None
    assert layer.weight.grad is None


def test_what_trains_or_is_computed_is_read_anew() -> None:
    linear = nn.Sequential(small(nn.Linear, 8, 6))
    patch(linear)
    layer: Any = linear[0]
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(3, 8)).float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    layer.weight.requires_grad_(False)
    surgery.reparametrize(layer, "weight", "twofold", Double())
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(3, 8)
        assert torch.equal(
            layer(x), functional.linear(x, 2 * layer._parameters["weight"], layer.bias)
        )


class Double(nn.Module):
    """Twice a tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_a_layernorm_gives_bf16_and_computes_in_fp32() -> None:
    norm = nn.Sequential(small(nn.LayerNorm, 64))
    patch(norm)
    x = (100 + torch.randn(7, 64)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    exact = functional.layer_norm(x.float(), (64,)).bfloat16()
    assert torch.equal(out, exact)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("tokens", [1, 40])
def test_a_frozen_matrix_gives_the_gradients_of_a_plain_one(
    packs: bool, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if packs and not kernel._packs():
        pytest.skip("this PyTorch or CPU packs no matrices")
    monkeypatch.setattr(kernel, "_packs", lambda: packs)
    plain = small(nn.Linear, 48, 24)
    layer = nn.Sequential(small(nn.Linear, 48, 24))
    patch(layer)
    for linear in (plain, layer[0]):
        linear.weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    found = []
    for module in (plain, layer):
        x = torch.linspace(-1, 1, 2 * tokens * 48).view(tokens, 2, 48).transpose(0, 1)
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        y.float().pow(2).sum().backward()
        (bias,) = [p.grad for p in module.parameters() if p.grad is not None]
        assert x.grad is not None
        found.append((y, x.grad, bias))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        largest = float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * largest)


def test_the_product_with_a_frozen_matrix_has_the_gradients_of_a_linear_layer() -> None:
    """The same code that packed matrices use, where this CPU packs none either."""
    weight, found = torch.randn(5, 4), []
    for product in (
        lambda x, bias: functional.linear(x, weight, bias),
        lambda x, bias: kernel._FrozenLinear.apply(x, bias, kernel.CachedWeight(weight)),
    ):
        x, bias = torch.linspace(-1, 1, 24).view(3, 2, 4), torch.linspace(0, 1, 5)
        x, bias = x.requires_grad_(), bias.requires_grad_()
        y = product(x, bias)
        y.pow(2).sum().backward()
        found.append((y.detach(), x.grad, bias.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_what_has_trained_is_cast_anew_once_it_is_frozen() -> None:
    layer = nn.Sequential(small(nn.Linear, 48, 24))
    patch(layer)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    x = torch.randn(5, 48)

    def mine_and_plain() -> list[torch.Tensor]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            plain = functional.linear(x, layer[0].weight, layer[0].bias)  # type: ignore[union-attr, arg-type]
            return [layer(x), plain]

    layer.requires_grad_(False)  # as it is in between, too: what was cast then is stale later
    torch.testing.assert_close(*mine_and_plain())
    layer.requires_grad_(True)
    for _ in range(3):
        torch.testing.assert_close(*mine_and_plain())
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).float().sum().backward()
        optimizer.step()
    layer.requires_grad_(False)
    torch.testing.assert_close(*mine_and_plain())
