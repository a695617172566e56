"""A run directory's config as data: parsed and resolved by itself, whoever wrote it.

Hydra writes the config as it was composed, so that references stand in it. Those that only look at
the config are followed; what would look at the environment, a file or anything else is refused.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finegrid.config import RunConfig, register_resolvers, to_plain
from finegrid.errors import UserError, causes, require
from finegrid.recipes import scales
from finegrid.runs import identity, layout
from finegrid.runs.record import Record
from finegrid.runs.settings import older
from finegrid.storage.files import content

FILE = layout.CONFIG
LARGEST = 1 << 18  # bytes; a composed config has a few thousand
DEEPEST = 32
MOST = 100  # references
LONGEST = 1 << 16  # characters of what one of them may stand for
# resolvers that look at the config alone
LOOKS = ("recipe", "head_rate", "oc.select", "named_after")
MACHINE = "${oc.env:FINEGRID_DATA_DIR,null}"  # data.root by default: where that machine had data
RECIPE = "${recipe:lr}"  # of optim.lr in a trial
OPEN = "???"  # what a reference stands for as long as it is not resolved

Place = tuple[Any, ...]  # of a value in nested tables and lists


def config(directory: Path) -> DictConfig:
    """The config of a run directory, without any reference but a trial's to its rate.

    Raises:
        UserError: if there is none, or it holds more than tables of plain values and references
            to one another.
    """
    path = directory / FILE
    require(path.exists(), f"{directory} holds no {FILE}; is it a run directory?")
    try:
        return resolved(_parsed(content(path, LARGEST).decode("utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        user = next((cause for cause in causes(error) if isinstance(cause, UserError)), None)
        why = str(user or error).strip() or "nested too deep"
        raise UserError(f"{path} is not a readable config: {why.splitlines()[0]}") from error


def of_run(directory: Path, record: Record, *, allow: Collection[str] = ()) -> RunConfig:
    """The settings of a run directory, typed, which must be those of the record there.

    `allow` names packages from which classes may come, whatever the config there says.

    Raises:
        UserError: if the config is missing, invalid or of another run.
    """
    cfg = config(directory)
    try:
        settings = RunConfig.of(cfg, allow=allow)
        _require_same_run(directory, record, to_plain(cfg))
    except (OmegaConfBaseException, LookupError, TypeError, ValueError, AttributeError) as error:
        why = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{directory / FILE} is not a run's config: {why}") from error
    return settings


def _recorded(record: Record, name: str) -> Any:
    """A field that holds a setting; in a record older than the setting, what it was by then."""
    if name == "fraction" and record.rows_asked is not None:
        return 1.0  # of the config; the record's came from the rows
    value = getattr(record, name)
    return older(name) if value is None else value


def _require_same_run(directory: Path, record: Record, plain: dict[str, Any]) -> None:
    """Refuse a record that belongs to another config than the one beside it.

    Hydra writes the config as soon as a run starts, so the directory may have been used again.
    """
    facts = identity.facts(plain)
    other = [name for name, value in facts.items() if _recorded(record, name) != value]
    if not other and record.config_hash and record.config_hash != identity.config_hash(plain):
        other = ["settings"]
    require(
        not other,
        f"{directory}: its record is of another run than its {FILE} (they differ in "
        f"{', '.join(other)}): the directory was used again or changed; run it again",
    )


def write(directory: Path, plain: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Write what Hydra leaves beside a job of its own: config.yaml and overrides.yaml.

    In a trial's config the learning rate still refers to its recipe.
    """
    (directory / FILE).parent.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(with_recipe(plain)), directory / FILE)
    OmegaConf.save(OmegaConf.create(list(overrides)), directory / layout.OVERRIDES)


def with_recipe(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config, in which a trial of factors still has to refer to the recipe."""
    if not scales(plain):
        return dict(plain)
    return {**plain, "optim": {**plain["optim"], "lr": RECIPE}}


def resolved(plain: dict[str, Any]) -> DictConfig:
    """A composed config with its references followed.

    Raises:
        ValueError: if one of them looks elsewhere, or they stand for too much.
        OmegaConfBaseException: if one leads nowhere, or in a circle.
    """
    register_resolvers()
    if isinstance(data := plain.get("data"), dict) and data.get("root") == MACHINE:
        data["root"] = None
    references = dict(_references(plain))
    if sum(text.count("${") for text in references.values()) > MOST:
        raise ValueError(f"more than {MOST} references")
    for place, text in references.items():
        _look_here(text)
        _put(plain, place, OPEN)
    while references:
        left = _followed(plain, references)
        if len(left) == len(references):
            raise next(iter(left.values()))
        references = {place: references[place] for place in left}
    cfg = OmegaConf.create(plain)
    if scales(plain):  # as a live trial's config has it
        cfg.optim.lr = RECIPE
    return cfg


def _parsed(text: str) -> dict[str, Any]:
    """YAML as plain tables and lists; whose aliases could stand for any amount is refused."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("nested too deep")
    found = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(found, dict):
        raise ValueError("it is no table")
    return found  # type: ignore[return-value]


def _references(node: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Every text with a reference in it, by its place."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _references(value, (*place, key))
    elif isinstance(node, str) and "${" in node:
        yield place, node


def _look_here(text: str) -> None:
    """Refuse every resolver but those that look at the config; a name may not be put together."""
    rest = text
    for name in LOOKS:
        rest = rest.replace(f"${{{name}:", "${")
    if ":" in rest[rest.index("${") :]:
        raise ValueError(f"{text[:80]} would look outside the config; write what it stands for")


def _put(plain: Any, place: Place, value: Any) -> None:
    *way, last = place
    for key in way:
        plain = plain[key]
    plain[last] = value


def _followed(
    plain: dict[str, Any], references: Mapping[Place, str]
) -> dict[Place, OmegaConfBaseException]:
    """Put what references lead to in their places; returns those that lead to other references.

    One at a time, the others being unknown meanwhile, so that no text can multiply another's.
    """
    left = {}
    for place, text in references.items():
        _put(plain, place, text)
        try:
            value = _at(OmegaConf.create(plain), place)
        except OmegaConfBaseException as error:
            left[place], value = error, OPEN
        if len(repr(value)) > LONGEST:
            raise ValueError(f"{text[:80]} stands for too much")
        _put(plain, place, value)
    return left


def _at(cfg: Any, place: Place) -> Any:
    for key in place:
        cfg = cfg[key]
    return OmegaConf.to_container(OmegaConf.create({"": cfg}), throw_on_missing=True)[""]  # type: ignore[call-overload,index]
