"""Fine-tune one backbone on one task with one method; `--help` lists what there is."""

import finegrid.quiet  # noqa: F401

# isort: split
import hydra
from omegaconf import DictConfig

from finegrid import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Run one cell; torch is imported only once the config has been checked."""
    cli.run(cfg)


if __name__ == "__main__":
    cli.guard(main)
