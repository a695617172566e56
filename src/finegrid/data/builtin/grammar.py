"""From meanings to sentences: seeded draws, events, and the many ways to say one event.

An `Event` is what a sentence means (who did what to whom, where, when, how). `realise` says
it in one of the ways which keep the meaning: synonyms, active or passive, a time in front or
at the end, an adverb before the verb or after it, ``gave him a book`` or ``gave a book to
him``. Tasks and pre-training text are both built from these two, with different draws.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple, TypeVar

from finegrid.data.builtin import lexicon as lex

T = TypeVar("T")
TENSES = ("past", "past", "past", "present", "progressive", "perfect", "future")
SINGULAR = ("the", "the", "the", "a", "a", "this", "every")
PLURAL = ("the", "the", "this", "two", "three", "many")


class Draw:
    """A private random stream that uses `random.Random.random` alone.

    Only that method is promised to give the same numbers on every Python version.
    """

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        return self._rng.random()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, uniformly."""
        return items[int(self.unit() * len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order."""
        keyed = [(self.unit(), position) for position in range(len(items))]
        return [items[position] for _, position in sorted(keyed)]


class Word(NamedTuple):
    """A word of a sentence with its syntactic tag."""

    text: str
    tag: str


Words = list[Word]


@dataclass(frozen=True)
class Phrase:
    """A noun phrase, with an optional ``near the ...`` which may attract agreement."""

    noun: str
    det: str = "the"
    plural: bool = False
    adjective: str | None = None
    beside: Phrase | None = None


@dataclass(frozen=True)
class Event:
    """The meaning of one sentence."""

    agent: Phrase
    verb: str
    patient: Phrase | None = None
    recipient: Phrase | None = None
    manner: str | None = None
    preposition: str = "near"
    place: Phrase | None = None
    time: str | None = None
    tense: str = "past"
    negated: bool = False


@dataclass(frozen=True)
class Style:
    """How to say an event; none of these choices changes what it means."""

    passive: bool = False
    fronted: bool = False  # the time comes first
    early: bool = False  # the adverb stands before the verb
    shifted: bool = False  # the recipient comes before the patient
    synonyms: float = 0.5  # 0: only the first word of a concept; 0.5: any, equally often


def random_style(draw: Draw) -> Style:
    """A style with every alternation as likely as not, the passive somewhat rarer."""
    passive, fronted, early, shifted = (draw.chance(p) for p in (0.35, 0.4, 0.5, 0.5))
    return Style(passive=passive, fronted=fronted, early=early, shifted=shifted)


def random_phrase(draw: Draw, nouns: Sequence[str], *, adjective: float = 0.2) -> Phrase:
    """A noun phrase about one of the nouns."""
    noun = draw.pick(nouns)
    is_plural = draw.chance(0.35)
    det = draw.pick(PLURAL if is_plural else SINGULAR)
    described = random_adjective(draw, noun) if draw.chance(adjective) else None
    return Phrase(noun, det, is_plural, described)


def random_adjective(draw: Draw, noun: str) -> str | None:
    """An adjective that may describe the noun."""
    kind = lex.NOUNS[noun].kinds[0][0]
    fitting = [name for name, a in lex.ADJECTIVES.items() if kind in a.kinds[0]]
    return draw.pick(fitting) if fitting else None


def random_place(draw: Draw) -> Phrase:
    """A definite place."""
    return Phrase(draw.pick(lex.of_kind("building", "outdoors")))


@cache
def times_for(tense: str) -> tuple[str, ...]:
    """Times that go with a tense."""
    return tuple(name for name, time in lex.TIMES.items() if tense in time.kinds[0])


def random_event(
    draw: Draw, *, verbs: Sequence[str] | None = None, tenses: Sequence[str] = TENSES
) -> Event:
    """An event whose participants fit its verb."""
    verb = draw.pick(verbs or tuple(lex.VERBS))
    agent, patient, recipient = lex.VERBS[verb].kinds
    tense = draw.pick(tenses)
    times = times_for(tense)
    event = Event(
        agent=random_phrase(draw, lex.of_kind(*agent)),
        verb=verb,
        patient=random_phrase(draw, lex.of_kind(*patient)) if patient else None,
        recipient=random_phrase(draw, lex.of_kind(*recipient)) if recipient else None,
        manner=draw.pick(tuple(lex.MANNERS)) if draw.chance(0.15) else None,
        preposition=draw.pick(tuple(lex.PREPOSITIONS)),
        place=random_place(draw) if draw.chance(0.25) else None,
        time=draw.pick(times) if times and draw.chance(0.35) else None,
        tense=tense,
        negated=draw.chance(0.12),
    )
    return _distinct(draw, event)


def _distinct(draw: Draw, event: Event) -> Event:
    """No noun twice in one sentence; now and then an attractor beside the agent."""
    phrases = [event.agent, event.patient, event.recipient]
    nouns = [phrase.noun for phrase in phrases if phrase]
    if len(set(nouns)) < len(nouns):
        return random_event(draw, verbs=[event.verb], tenses=[event.tense])
    if event.place or not draw.chance(0.1):
        return event
    other = random_phrase(draw, lex.of_kind("vehicle", "thing", "animal"), adjective=0.0)
    if other.noun in nouns:
        return event
    return replace(event, agent=replace(event.agent, beside=other))


def _word(draw: Draw, words: Sequence[str], synonyms: float) -> str:
    return draw.pick(words) if draw.chance(2 * synonyms) else words[0]


def _noun_phrase(draw: Draw, phrase: Phrase, synonyms: float) -> Words:
    number = ".pl" if phrase.plural else ".sg"
    det = _word(draw, lex.DETERMINERS[phrase.det][phrase.plural].split(), synonyms)
    noun = _word(draw, lex.NOUNS[phrase.noun].words, synonyms)
    words = [Word(lex.plural(noun) if phrase.plural else noun, "noun" + number)]
    if phrase.adjective:
        adjective = lex.ADJECTIVES[phrase.adjective].words
        words.insert(0, Word(_word(draw, adjective, synonyms), "adj"))
    if det == "a" and words[0].text[0] in "aeiou":
        det = "an"
    words.insert(0, Word(det, "det" + number))
    if phrase.beside:
        near = _word(draw, lex.PREPOSITIONS["near"].split(), synonyms)
        words += [Word(near, "prep"), *_noun_phrase(draw, phrase.beside, synonyms)]
    return words


def auxiliaries(tense: str, *, passive: bool, negated: bool, plural: bool) -> tuple[list[str], str]:
    """The auxiliaries of a verb group and the form of its main verb."""
    be, have, do = ("are", "have", "do") if plural else ("is", "has", "does")
    active = {
        "past": (["did"], "base") if negated else ([], "past"),
        "present": ([do], "base") if negated else ([], "base" if plural else "s"),
        "progressive": ([be], "ing"),
        "perfect": ([have], "part"),
        "future": (["will"], "base"),
    }
    voiced = {
        "past": ["were" if plural else "was"],
        "present": [be],
        "progressive": [be, "being"],
        "perfect": [have, "been"],
        "future": ["will", "be"],
    }
    words, form = (voiced[tense], "part") if passive else active[tense]
    return ([words[0], "not", *words[1:]] if negated else words), form


def _verb_group(draw: Draw, event: Event, style: Style, plural: bool) -> Words:
    words, form = auxiliaries(
        event.tense, passive=style.passive, negated=event.negated, plural=plural
    )
    verb = _word(draw, lex.VERBS[event.verb].words, style.synonyms)
    tagged = [Word(word, "not" if word == "not" else "aux") for word in words]
    return [*tagged, Word(lex.FORMS[verb][form], "verb")]


def _objects(draw: Draw, event: Event, style: Style) -> Words:
    """What follows the verb group: patient, recipient, or the agent of a passive."""
    patient = _noun_phrase(draw, event.patient, style.synonyms) if event.patient else []
    recipient: Words = []
    if event.recipient:
        recipient = _noun_phrase(draw, event.recipient, style.synonyms)
        if style.shifted and not style.passive:
            return recipient + patient
        recipient = [Word("to", "prep"), *recipient]
    if style.passive:
        agent = _noun_phrase(draw, event.agent, style.synonyms)
        return [*recipient, Word("by", "prep"), *agent]
    return patient + recipient


def realise(draw: Draw, event: Event, style: Style, *, disagree: bool = False) -> Words:
    """Say the event in this style; `disagree` gives the verb the wrong number."""
    passive = style.passive and event.patient is not None
    style = replace(style, passive=passive)
    subject = event.patient if passive and event.patient else event.agent
    group = _verb_group(draw, event, style, subject.plural != disagree)
    words = _noun_phrase(draw, subject, style.synonyms)
    tail = _objects(draw, event, style)
    if event.manner:
        manner = Word(_word(draw, lex.MANNERS[event.manner].words, style.synonyms), "adv")
        if style.early:
            group.insert(-1, manner)
        else:
            tail.append(manner)
    words += group + tail
    if event.place:
        where = _word(draw, lex.PREPOSITIONS[event.preposition].split(), style.synonyms)
        words += [Word(where, "prep"), *_noun_phrase(draw, event.place, style.synonyms)]
    if event.time:
        time = Word(_word(draw, lex.TIMES[event.time].words, style.synonyms), "time")
        words = [time, Word(",", "comma"), *words] if style.fronted else [*words, time]
    return words


def text(words: Sequence[Word]) -> str:
    """The written sentence."""
    joined = " ".join(word.text for word in words).replace(" ,", ",")
    return joined[0].upper() + joined[1:] + "."


def say(draw: Draw, event: Event, *, synonyms: float = 0.5) -> str:
    """Write the event in a random style."""
    return text(realise(draw, event, replace(random_style(draw), synonyms=synonyms)))
