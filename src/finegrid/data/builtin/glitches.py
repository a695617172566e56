"""Ways to break a sentence: agreement, determiners, order, selection, valency, tense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from finegrid.data.builtin import lexicon as lex
from finegrid.data.builtin.grammar import (
    Draw,
    Style,
    Word,
    Words,
    random_event,
    random_phrase,
    random_style,
    realise,
    times_for,
)

AGREEING = ("present", "progressive", "perfect")
SINGULAR_ONLY = ("a", "every", "this")
PLURAL_ONLY = ("two", "many", "these")
TRANSITIVE = tuple(name for name, verb in lex.VERBS.items() if verb.kinds[1])
INTRANSITIVE = tuple(name for name, verb in lex.VERBS.items() if not verb.kinds[1])
# Verbs that sound wrong with no object.
STRICT = (
    "help", "punish", "praise", "blame", "hire", "chase", "attack", "scare", "calm", "love",
    "hate", "fix", "buy", "lose", "find", "carry", "build", "destroy", "open",
)  # fmt: skip
# A tense and one whose times it cannot bear.
CLASH = {
    "past": "future", "future": "past", "present": "past", "progressive": "past",
    "perfect": "future",
}  # fmt: skip


def plain(draw: Draw) -> Words:
    """A sentence with nothing wrong."""
    return realise(draw, random_event(draw), random_style(draw))


def agreement(draw: Draw) -> Words:
    """The doctor are running."""
    return realise(draw, random_event(draw, tenses=AGREEING), random_style(draw), disagree=True)


def attracted(draw: Draw) -> Words:
    """The doctor near the cars are running: the nearer noun misleads the verb."""
    return decoyed(draw, disagree=True)


def decoyed(draw: Draw, *, disagree: bool = False) -> Words:
    """A sentence with a noun of the other number between its subject and its verb."""
    event = random_event(draw, tenses=AGREEING)
    decoy = random_phrase(draw, lex.of_kind("vehicle", "thing"), adjective=0.0)
    decoy = replace(decoy, plural=not event.agent.plural, det="the")
    event = replace(event, agent=replace(event.agent, beside=decoy), place=None)
    return realise(draw, event, replace(random_style(draw), passive=False), disagree=disagree)


def determiner(draw: Draw) -> Words:
    """These doctor, a doctors."""
    words = plain(draw)
    spot = draw.pick(_spots(words, "det"))
    wrong = PLURAL_ONLY if words[spot].tag.endswith("sg") else SINGULAR_ONLY
    return [*words[:spot], Word(draw.pick(wrong), "det"), *words[spot + 1 :]]


def order(draw: Draw) -> Words:
    """Doctor the ran: a word changes places with its neighbour."""
    words = plain(draw)
    tags = draw.pick(("det", "det", "verb", "prep", "aux"))
    spots = [spot for spot in _spots(words, tags) if _mixed(words, spot)]
    if not spots:
        return order(draw)
    spot = draw.pick(spots)
    return [*words[:spot], words[spot + 1], words[spot], *words[spot + 2 :]]


def selection(draw: Draw) -> Words:
    """The soup read the hill: a participant of the wrong kind."""
    event = random_event(draw, verbs=TRANSITIVE)
    if draw.chance(0.5):
        nouns = lex.of_kind("food", "thing", "building", "text")
        thing = replace(random_phrase(draw, nouns), beside=None)
        return realise(draw, replace(event, agent=thing), random_style(draw))
    allowed = lex.VERBS[event.verb].kinds[1]
    kinds = [row[0] for row in lex.NOUN_ROWS if row[0] not in allowed]
    wrong = random_phrase(draw, lex.of_kind(draw.pick(kinds)))
    return realise(draw, replace(event, patient=wrong), random_style(draw))


def missing(draw: Draw) -> Words:
    """Doctor saw the car; the car was seen the doctor."""
    words = plain(draw)
    tag = draw.pick(("det.sg", "det.sg", "prep", "aux", "verb"))
    spots = _spots(words, tag)
    if not spots:
        return missing(draw)
    spot = draw.pick(spots)
    if words[spot].text in ("did", "do", "to"):
        return missing(draw)  # what is left may be fine
    return words[:spot] + words[spot + 1 :]


def doubled(draw: Draw) -> Words:
    """The a doctor; to by the doctor; has is running."""
    words = plain(draw)
    spot = draw.pick([*_spots(words, "det"), *_spots(words, "prep"), *_spots(words, "aux")])
    extra = {"det": ("the", "a", "this"), "prep": ("to", "by", "in"), "aux": ("is", "has", "did")}
    kind = words[spot].tag[:3]
    options = next(value for key, value in extra.items() if key.startswith(kind))
    return [*words[:spot], Word(draw.pick(options), kind), *words[spot:]]


def verb_form(draw: Draw) -> Words:
    """The doctor has running; the doctor did not walked."""
    words = plain(draw)
    spot = _spots(words, "verb")[0]
    forms = next(f for f in lex.FORMS.values() if words[spot].text in f.values())
    others = sorted({form for form in forms.values() if form != words[spot].text})
    if not _spots(words, "aux"):
        return verb_form(draw)  # without an auxiliary most forms are fine
    return [*words[:spot], Word(draw.pick(others), "verb"), *words[spot + 1 :]]


def valency(draw: Draw) -> Words:
    """The man slept the car; the man fixed."""
    style = replace(random_style(draw), passive=False)
    if draw.chance(0.5):
        event = random_event(draw, verbs=STRICT)
        return realise(draw, replace(event, patient=None), style)
    event = random_event(draw, verbs=INTRANSITIVE)
    thing = random_phrase(draw, lex.of_kind("thing", "person", "food"))
    return realise(draw, replace(event, patient=thing), Style(passive=draw.chance(0.3)))


def tense(draw: Draw) -> Words:
    """Yesterday the man will run."""
    event = random_event(draw)
    wrong = [t for t in times_for(CLASH[event.tense]) if t not in times_for(event.tense)]
    wrong = [time for time in wrong if len(lex.TIMES[time].kinds[0]) == 1]
    return realise(draw, replace(event, time=draw.pick(wrong)), random_style(draw))


GLITCHES: tuple[Callable[[Draw], Words], ...] = (
    agreement, agreement, attracted, determiner, determiner, order, order, selection, missing,
    doubled, doubled, verb_form, verb_form, valency, tense,
)  # fmt: skip


def _spots(words: Words, tag: str) -> list[int]:
    return [spot for spot, word in enumerate(words) if word.tag.startswith(tag)]


def _mixed(words: Words, spot: int) -> bool:
    """Whether swapping with the next word breaks the order."""
    if spot + 1 >= len(words):
        return False
    following = words[spot + 1].tag
    return following in ("noun.sg", "noun.pl", "adj", "verb", "not") or (
        words[spot].tag == "verb" and following.startswith("det")
    )
