"""Mixed precision: what stays in fp32."""

import torch
from conftest import composed

from finegrid import backbone
from finegrid.config import RunConfig


def test_the_heads_outputs_are_not_rounded_to_bf16() -> None:
    config = RunConfig.of(composed("model=tiny"))
    built = backbone.build(config.model, outputs=1, seed=0)
    ids = torch.randint(5, 600, (64, 12))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = built.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
