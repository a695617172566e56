"""Whether a run can begin, by its settings and its model's shapes and files: no rows, no hub.

    python -m finegrid.training.feasible < CONFIGS

reads a JSON list of resolved configs, and writes one of reasons: empty where a run can begin.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from finegrid.config import RunConfig, register_resolvers
from finegrid.errors import UserError
from finegrid.models import backbone
from finegrid.training import components, gradient_checkpointing

log = logging.getLogger(__name__)


def check(config: RunConfig) -> None:
    """Refuse a run that could not begin, whatever its rows; a model of which nothing is here fits.

    Raises:
        UserError: what does not fit what.
    """
    model = config.model
    if not Path(backbone.locate(model)).is_dir():
        if not model.architecture:
            return
        config = replace(config, model=replace(model, pretrained=False))  # no look at the hub
    components.check_settings(config)
    base = components.outlined(config)
    if config.trainer.gradient_checkpointing:
        gradient_checkpointing.enable(base.model)
    if config.model.pretrained:  # so its folder is here
        backbone.check_folder(config.model)


def reason(plain: Mapping[str, Any]) -> str:
    """Why a run of a resolved config could not begin; empty if it can.

    What a method cannot do without numbers, such as one of a user's package, only its run tells.
    """
    try:
        check(RunConfig.of(OmegaConf.create(dict(plain))))
    except UserError as error:
        return str(error)
    except Exception as error:
        log.debug("not known before it runs: %s", error)
    return ""


def main() -> None:
    """Answer on what was standard output; whatever else is printed goes to standard error."""
    register_resolvers()
    with contextlib.redirect_stdout(sys.stderr):
        reasons = [reason(plain) for plain in json.load(sys.stdin)]
    json.dump(reasons, sys.stdout)


if __name__ == "__main__":
    main()
