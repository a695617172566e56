"""Changes of meaning: what turns an event into a different one, and how different it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from finegrid.data.builtin import lexicon as lex
from finegrid.data.builtin.grammar import (
    Draw,
    Event,
    Phrase,
    random_adjective,
    random_event,
    times_for,
)

Edit = Callable[[Draw, Event], Event]
NUMBERS = ("two", "three", "many")
# Weight of each slot in `overlap`.
WEIGHTS = {
    "verb": 1.2, "agent": 1.0, "patient": 1.0, "recipient": 0.8, "place": 0.6, "time": 0.5,
    "manner": 0.4, "adjective": 0.4,
}  # fmt: skip
RELATED = 0.4
# What is left of the likeness when only one is negated, or the tenses differ.
NEGATED = 0.5
RETIMED = 0.75


def swap_roles(draw: Draw, event: Event) -> Event:
    """The dog chased the cat: the cat chased the dog."""
    kinds = lex.VERBS[event.verb].kinds
    patient = event.patient
    if not patient or not {_kind(patient), _kind(event.agent)} <= {*kinds[0]} & {*kinds[1]}:
        return event
    return replace(event, agent=patient, patient=replace(event.agent, beside=None))


def other_agent(draw: Draw, event: Event) -> Event:
    """Someone else of the same kind did it."""
    return replace(event, agent=_other_noun(draw, event, event.agent))


def other_patient(draw: Draw, event: Event) -> Event:
    """It was done to another thing of the same kind."""
    if not event.patient:
        return event
    return replace(event, patient=_other_noun(draw, event, event.patient))


def other_recipient(draw: Draw, event: Event) -> Event:
    """It went to someone else."""
    if not event.recipient:
        return event
    return replace(event, recipient=_other_noun(draw, event, event.recipient))


def other_verb(draw: Draw, event: Event) -> Event:
    """A related or opposite action: buy and sell."""
    return replace(event, verb=draw.pick(lex.relatives(lex.VERBS, event.verb)))


def other_adjective(draw: Draw, event: Event) -> Event:
    """The opposite adjective: big and small."""
    for slot in ("patient", "agent"):
        phrase: Phrase | None = getattr(event, slot)
        if phrase and phrase.adjective:
            opposite = draw.pick(lex.relatives(lex.ADJECTIVES, phrase.adjective))
            return _with_phrase(event, slot, replace(phrase, adjective=opposite))
    return event


def other_number(draw: Draw, event: Event) -> Event:
    """Two instead of three, or a thing instead of many."""
    for slot in ("patient", "agent"):
        phrase: Phrase | None = getattr(event, slot)
        if phrase and phrase.det in NUMBERS:
            det = draw.pick([number for number in NUMBERS if number != phrase.det])
            return _with_phrase(event, slot, replace(phrase, det=det))
    return event


def other_place(draw: Draw, event: Event) -> Event:
    """Somewhere else."""
    if not event.place:
        return event
    return replace(event, place=_other_noun(draw, event, event.place))


def other_time(draw: Draw, event: Event) -> Event:
    """At another time that goes with the same tense."""
    if not event.time:
        return event
    return replace(event, time=draw.pick(_fitting_times(event)))


def other_manner(draw: Draw, event: Event) -> Event:
    """In the opposite manner."""
    if not event.manner:
        return event
    return replace(event, manner=draw.pick(lex.relatives(lex.MANNERS, event.manner)))


def negated(draw: Draw, event: Event) -> Event:
    """It did not happen."""
    return replace(event, negated=not event.negated)


def other_tense(draw: Draw, event: Event) -> Event:
    """At another point in time: it will happen instead of having happened."""
    tense = draw.pick([name for name in ("past", "future", "progressive") if name != event.tense])
    time = draw.pick(times_for(tense)) if event.time else None
    return replace(event, tense=tense, time=time)


EDITS: tuple[Edit, ...] = (
    other_agent, other_patient, other_recipient, other_verb, other_verb, swap_roles,
    other_adjective, other_number, other_number, other_place, other_time, other_manner,
    other_tense, other_tense, negated,
)  # fmt: skip


def changed(draw: Draw, event: Event, *, second: float = 0.3) -> Event:
    """The event with one or two of its parts replaced."""
    wanted = 2 if draw.chance(second) else 1
    result = event
    for edit in draw.shuffled(EDITS):
        after = edit(draw, result)
        wanted -= after != result
        result = after
        if wanted <= 0:
            break
    return result


def overlap(first: Event, second: Event) -> float:
    """Share of the slots of both events that agree, by weight; related concepts count less."""
    total = score = 0.0
    before, after = _slots(first), _slots(second)
    for slot, weight in WEIGHTS.items():
        one, two = before[slot], after[slot]
        if one or two:
            total += weight
            score += weight * _likeness(slot, one, two)
    if first.negated != second.negated:
        score *= NEGATED
    if first.tense != second.tense:
        score *= RETIMED
    return score / total


def drifted(draw: Draw, event: Event, *, target: float) -> Event:
    """The event with slots replaced until no more than `target` of it is left."""
    if target < 0.1:
        return random_event(draw)
    result = event
    for edit in draw.shuffled(DRIFTS):
        if overlap(event, result) <= target:
            break
        result = edit(draw, result)
    return result


def far_agent(draw: Draw, event: Event) -> Event:
    """Someone unrelated did it."""
    return replace(event, agent=_far_noun(draw, event, event.agent))


def far_patient(draw: Draw, event: Event) -> Event:
    """It was done to something unrelated."""
    if not event.patient:
        return event
    return replace(event, patient=_far_noun(draw, event, event.patient))


def far_verb(draw: Draw, event: Event) -> Event:
    """An unrelated action which the same participants can take part in."""
    row = lex.VERBS[event.verb].row
    held = (event.agent, event.patient, event.recipient)
    fitting = [
        name
        for name, verb in lex.VERBS.items()
        if verb.row != row and all(map(_admits, verb.kinds, held))
    ]
    return replace(event, verb=draw.pick(fitting)) if fitting else other_verb(draw, event)


def far_details(draw: Draw, event: Event) -> Event:
    """Place, time and manner of another event."""
    other = random_event(draw, tenses=[event.tense])
    return replace(event, place=other.place, time=other.time, manner=other.manner)


DRIFTS: tuple[Edit, ...] = (
    other_agent, other_patient, other_recipient, other_verb, other_adjective, other_place,
    other_time, other_manner, far_agent, far_agent, far_patient, far_patient, far_verb,
    far_verb, far_details, far_details,
)  # fmt: skip


def _kind(phrase: Phrase) -> str:
    return lex.NOUNS[phrase.noun].kinds[0][0]


def _admits(kinds: tuple[str, ...], phrase: Phrase | None) -> bool:
    return _kind(phrase) in kinds if phrase else not kinds


def _nouns(event: Event) -> set[str]:
    held = (event.agent, event.patient, event.recipient, event.place)
    return {phrase.noun for phrase in held if phrase}


def _other_noun(draw: Draw, event: Event, phrase: Phrase) -> Phrase:
    """Another noun of the same kind; an adjective stays only where it still fits."""
    used = _nouns(event)
    fitting = [noun for noun in lex.of_kind(_kind(phrase)) if noun not in used]
    return replace(phrase, noun=draw.pick(fitting), beside=None)


def _far_noun(draw: Draw, event: Event, phrase: Phrase) -> Phrase:
    row = lex.NOUNS[phrase.noun].row
    used = _nouns(event)
    fitting = [
        noun
        for noun in lex.of_kind(_kind(phrase))
        if noun not in used and lex.NOUNS[noun].row != row
    ]
    noun = draw.pick(fitting)
    adjective = random_adjective(draw, noun) if phrase.adjective else None
    return replace(phrase, noun=noun, adjective=adjective, beside=None)


def _fitting_times(event: Event) -> list[str]:
    return [
        name
        for name, time in lex.TIMES.items()
        if event.tense in time.kinds[0] and name != event.time
    ]


def _with_phrase(event: Event, slot: str, phrase: Phrase) -> Event:
    return replace(event, agent=phrase) if slot == "agent" else replace(event, patient=phrase)


def _slots(event: Event) -> dict[str, str | None]:
    patient_adjective = event.patient.adjective if event.patient else None
    return {
        "verb": event.verb,
        "agent": event.agent.noun,
        "patient": event.patient.noun if event.patient else None,
        "recipient": event.recipient.noun if event.recipient else None,
        "place": event.place.noun if event.place else None,
        "time": event.time,
        "manner": event.manner,
        "adjective": event.agent.adjective or patient_adjective,
    }


def _likeness(slot: str, one: str | None, two: str | None) -> float:
    if one == two:
        return 1.0
    tables = {"verb": lex.VERBS, "time": lex.TIMES, "manner": lex.MANNERS}
    table = lex.ADJECTIVES if slot == "adjective" else tables.get(slot, lex.NOUNS)
    related = one and two and table[one].row == table[two].row
    return RELATED if related else 0.0
