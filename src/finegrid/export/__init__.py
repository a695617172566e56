"""Export a finished run to files of other libraries: transformers, peft or adapters.

An export is kept only if it loads back and gives the run's logits.
"""

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from finegrid.errors import UserError, one_of, require
from finegrid.export import card
from finegrid.export.adapters import Adapters
from finegrid.export.layout import README, Layout, Unfit
from finegrid.export.merged import Merged
from finegrid.export.peft import Peft
from finegrid.export.verify import difference, logits_from, probe
from finegrid.inference import Restored, restore
from finegrid.models import heads

TARGETS = ("merged", "peft", "adapters")


def export(
    directory: Path,
    to: str,
    out: Path | None = None,
    *,
    model_path: str | None = None,
    allow: Collection[str] = (),
    python: str | None = None,
) -> str:
    """Export a run directory; returns what to tell the user.

    Raises:
        UserError: if the run does not fit the target, the output exists, or the files that were
            written do not give back the run's logits; nothing is left behind then.
    """
    one_of("--to", to, TARGETS)
    require(python is None or to == "adapters", f"--python goes with --to adapters, not {to}")
    out = out or directory / f"export-{to}"
    require(not out.exists(), f"{out} exists; remove it or choose another --out")
    run = restore(directory, model_path=model_path, allow=allow)
    scores = card.siblings(directory, run.record)
    return export_run(run, to, out, python=python, scores=scores)


def export_run(
    run: Restored,
    to: str,
    out: Path,
    *,
    python: str | None = None,
    scores: Mapping[int, float] | None = None,
) -> str:
    """Write, load back, compare and only then put the files at `out`; uses the run's model up.

    `scores` are the test scores of the run's seeds, for the model card.
    """
    layouts = _layouts(python)
    check(run, to)
    inputs, texts = probe(run)
    wanted = logits_from(run.model, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary, "export")
        folder.mkdir()
        layouts[to].write(run, folder)
        usage = layouts[to].usage(run, folder)
        card.write(run, folder, usage, library=layouts[to].library, scores=scores or {})
        logits, how = layouts[to].load_back(run, folder, inputs)
        largest = difference(wanted, logits)
        _readdress(folder, out)
        _share(folder)
        folder.rename(out)
    return f"{out}\nverified: {how}; logits of {texts} differ by at most {largest:.1e}"


def _readdress(folder: Path, out: Path) -> None:
    """Let the README's lines, which were run, name the place where the files will lie."""
    readme = folder / README
    text = readme.read_text(encoding="utf-8")
    moved = text.replace(repr(str(folder.resolve())), repr(str(out.resolve())))
    readme.write_text(moved, encoding="utf-8")


def _share(folder: Path) -> None:
    """Let all read whom the umask lets, as the folder shows; safetensors writes for its owner."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.iterdir():
        path.chmod(mode)


def check(run: Restored, to: str) -> None:
    """Refuse a run that does not fit a target, in one line that names what does fit.

    Raises:
        UserError: naming the method, what of it does not fit and what to do instead.
    """
    head = run.config.head
    require(
        heads.of(head).exports,
        f"--to {to}: transformers has no class for a model with head={head}; predict with finegrid "
        "predict, or train with head=classifier",
    )
    why = _misfit(run, to)
    if why:
        fitting = [f"--to {name}" for name in TARGETS if name != to and not _misfit(run, name)]
        instead = " or ".join(fitting) or "predict with finegrid predict"
        raise UserError(f"--to {to}, method {run.record.method}: {why}; instead: {instead}")


def _misfit(run: Restored, to: str) -> str:
    try:
        _layouts(None)[to].check(run)
    except Unfit as error:
        return str(error)
    return ""


def _layouts(python: str | None) -> dict[str, Layout]:
    return dict(zip(TARGETS, (Merged(), Peft(), Adapters(python)), strict=True))
