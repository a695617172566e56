"""Plain text of the builtin world: what the tiny model is pre-trained on.

Two consecutive sentences of a document are about one scene: the second says the first again
in other words, perhaps leaving a detail out, or goes on with one of its participants. The
sentence of another document is about anything, or about a similar scene (a *rival* telling):
random ones alone can be told apart by topic and teach no comparison of details. No task label
is used and no task sentence put here on purpose; a few turn up by chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from finegrid.data.builtin import lexicon as lex
from finegrid.data.builtin.edits import drifted
from finegrid.data.builtin.grammar import Draw, Event, Phrase, random_event, say


def shortened(draw: Draw, event: Event, *, drop: float = 0.15) -> Event:
    """The event told again, each of its optional details left out now and then."""
    agent = replace(event.agent, beside=None)
    return replace(
        event,
        agent=replace(agent, adjective=None) if draw.chance(drop) else agent,
        manner=None if draw.chance(drop) else event.manner,
        place=None if draw.chance(drop) else event.place,
        time=None if draw.chance(drop) else event.time,
    )


def continued(draw: Draw, event: Event) -> Event:
    """Another event with the agent, or a living patient, of the last one."""
    known = [phrase for phrase in (event.agent, event.patient, event.recipient) if phrase]
    living = [phrase for phrase in known if phrase.noun in lex.of_kind("person", "animal")]
    hero = _known(draw.pick(living))
    kind = lex.NOUNS[hero.noun].kinds[0][0]
    verbs = [name for name, verb in lex.VERBS.items() if kind in verb.kinds[0]]
    following = random_event(draw, verbs=verbs, tenses=[event.tense])
    others = [phrase.noun for phrase in (following.patient, following.recipient) if phrase]
    if hero.noun in others:
        return continued(draw, event)
    return replace(following, agent=hero, place=event.place, preposition=event.preposition)


def _known(phrase: Phrase) -> Phrase:
    """A phrase at its second mention: ``a tall man`` has become ``the man``."""
    det = "the" if phrase.det == "a" else phrase.det
    return replace(phrase, det=det, adjective=None, beside=None)


def rival(draw: Draw, event: Event) -> Event:
    """The scene as another document has it: some of its parts are others."""
    return shortened(draw, drifted(draw, event, target=0.8 * draw.unit()))


def pairs(
    seed: str, *, follows: float = 0.5, restate: float = 0.8, close: float = 0.5
) -> Iterator[tuple[str, str, int]]:
    """Endless (sentence, next sentence or one of another document, 1 if it follows).

    A share `close` of the other documents is about a similar scene, the rest about anything.
    """
    draw = Draw(seed)
    while True:
        event = random_event(draw)
        synonyms = draw.pick((0.0, 0.5, 0.5))  # some authors have few words: copying comes first
        real = draw.chance(follows)
        if real:
            second = shortened(draw, event) if draw.chance(restate) else continued(draw, event)
        else:
            second = random_event(draw) if draw.chance(1 - close) else rival(draw, event)
        said = [say(draw, told, synonyms=synonyms) for told in (event, second)]
        yield said[0], said[1], int(real)
