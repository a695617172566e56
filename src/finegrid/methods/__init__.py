"""Tuning methods: one file a method, each opening with its paper, formula and differences.

    from finegrid import methods
    methods.names()                  # every YAML of conf/method: bitfit, bitfit_lora, ...
    methods.LoRA(rank=4)             # a class, with its YAML's values for all else

The classes are those that the YAMLs name; one is imported when it is first asked for.
"""

import re
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from finegrid.errors import nearest
from finegrid.storage.paths import CONF

if TYPE_CHECKING:  # for editors and type checkers; at run time the YAMLs say what there is
    from finegrid.methods.adalora import AdaLoRA as AdaLoRA
    from finegrid.methods.bitfit import BitFit as BitFit
    from finegrid.methods.bitfit_added import BitFitAdded as BitFitAdded
    from finegrid.methods.compacter import Compacter as Compacter
    from finegrid.methods.compose import Compose as Compose
    from finegrid.methods.control_prefix import ControlPrefix as ControlPrefix
    from finegrid.methods.debias_diff import DebiasDiff as DebiasDiff
    from finegrid.methods.diff_pruning import DiffPruning as DiffPruning
    from finegrid.methods.dora import DoRA as DoRA
    from finegrid.methods.fourierft import FourierFT as FourierFT
    from finegrid.methods.full import Full as Full
    from finegrid.methods.galore import APOLLO as APOLLO
    from finegrid.methods.galore import GaLore as GaLore
    from finegrid.methods.head import Head as Head
    from finegrid.methods.hft import HFT as HFT
    from finegrid.methods.hira import HiRA as HiRA
    from finegrid.methods.houlsby import Houlsby as Houlsby
    from finegrid.methods.ia3 import IA3 as IA3
    from finegrid.methods.layernorm import LayerNorm as LayerNorm
    from finegrid.methods.layers import Layers as Layers
    from finegrid.methods.lisa import LISA as LISA
    from finegrid.methods.loha import LoHa as LoHa
    from finegrid.methods.lokr import LoKr as LoKr
    from finegrid.methods.lora import LoRA as LoRA
    from finegrid.methods.lora import LoRAFrozenA as LoRAFrozenA
    from finegrid.methods.lora import LoRAPlus as LoRAPlus
    from finegrid.methods.lora import RankStabilised as RankStabilised
    from finegrid.methods.loreft import LoReFT as LoReFT
    from finegrid.methods.lottery_ticket import LotteryTicket as LotteryTicket
    from finegrid.methods.mask_agnostic import MaskAgnostic as MaskAgnostic
    from finegrid.methods.mask_fixed import MaskFixed as MaskFixed
    from finegrid.methods.mask_l0 import MaskL0 as MaskL0
    from finegrid.methods.mask_threshold import MaskThreshold as MaskThreshold
    from finegrid.methods.miss import MiSS as MiSS
    from finegrid.methods.mpo import MPO as MPO
    from finegrid.methods.oft import OFT as OFT
    from finegrid.methods.parallel import Parallel as Parallel
    from finegrid.methods.pfeiffer import Pfeiffer as Pfeiffer
    from finegrid.methods.pissa import PiSSA as PiSSA
    from finegrid.methods.prefix import PrefixTuning as PrefixTuning
    from finegrid.methods.prompt import FourierPrompt as FourierPrompt
    from finegrid.methods.prompt import Prompt as Prompt
    from finegrid.methods.randlora import RandLoRA as RandLoRA
    from finegrid.methods.shira import SHiRA as SHiRA
    from finegrid.methods.sparse import Sparse as Sparse
    from finegrid.methods.subtuning import SubTuning as SubTuning
    from finegrid.methods.supermask import Supermask as Supermask
    from finegrid.methods.two_stage import TwoStage as TwoStage
    from finegrid.methods.vera import VeRA as VeRA

TARGET = re.compile(r"^_target_: finegrid\.methods\.(\w+)\.(\w+)", re.MULTILINE)


def names() -> list[str]:
    """The methods that can be named, in a config or to `finegrid.apply`."""
    return sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


@cache
def _classes() -> dict[str, str]:
    """Class -> module, as the YAMLs name them."""
    texts = ((CONF / "method" / f"{name}.yaml").read_text(encoding="utf-8") for name in names())
    return {target[2]: target[1] for text in texts if (target := TARGET.search(text))}


def __getattr__(name: str) -> Any:
    if name not in _classes():
        raise AttributeError(f"finegrid.methods has no {name}; {nearest(name, _classes())}")
    return getattr(import_module(f"{__name__}.{_classes()[name]}"), name)


def __dir__() -> list[str]:
    return sorted({"names", *_classes()})
