"""Words of the builtin world: concepts, their synonyms, their kinds and their inflected forms.

A concept is named by its first word. In the tables ``|`` separates concepts, a space the
synonyms of one concept, and the concepts of one row are *related* (nurse and doctor).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

NOUN_ROWS: tuple[tuple[str, str], ...] = (
    ("person", "doctor physician | nurse"),
    ("person", "teacher instructor | child kid"),
    ("person", "lawyer attorney | judge"),
    ("person", "thief robber | officer cop"),
    ("person", "writer author | singer vocalist"),
    ("person", "boss manager | worker laborer"),
    ("animal", "dog hound | cat feline"),
    ("animal", "horse pony | rabbit bunny"),
    ("food", "meal dinner | soup stew"),
    ("food", "cake pastry | cheese"),
    ("vehicle", "car automobile | truck lorry"),
    ("vehicle", "boat ship | bike bicycle"),
    ("thing", "bag sack | box crate"),
    ("thing", "jacket coat | gift present"),
    ("text", "letter note | report document"),
    ("text", "book novel | story tale"),
    ("building", "house home | barn shed"),
    ("building", "shop store | school academy"),
    ("outdoors", "garden yard | beach shore"),
    ("outdoors", "road street | forest woodland"),
)

# (kinds of the agent, kinds of the patient, kinds of the recipient, verbs); an empty field
# means that the verb takes no such participant.
VERB_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("person animal", "", "", "run sprint | walk stroll"),
    ("person animal", "", "", "sleep doze | wait linger"),
    ("person", "", "", "laugh giggle | cry weep"),
    ("person", "person", "", "help assist | punish penalize"),
    ("person", "person", "", "praise commend | blame accuse"),
    ("person", "person", "", "hire employ | visit"),
    ("person animal", "person animal", "", "chase pursue | attack assault"),
    ("person animal", "person animal", "", "scare frighten | calm soothe"),
    ("person animal", "person animal", "", "love adore | hate despise"),
    ("person animal", "person animal vehicle", "", "see notice | hear"),
    ("person", "vehicle thing", "", "fix repair | break smash"),
    ("person", "vehicle", "", "drive steer | stop halt"),
    ("person", "thing vehicle food", "", "buy purchase | sell"),
    ("person", "thing text", "", "lose misplace | find discover"),
    ("person", "thing food", "", "carry haul | steal swipe"),
    ("person animal", "food", "", "eat devour | smell sniff"),
    ("person", "food", "", "cook prepare | burn scorch"),
    ("person", "text", "", "write compose | copy duplicate"),
    ("person", "building", "", "build construct | destroy demolish"),
    ("person", "building", "", "open unlock | close shut"),
    ("person", "thing food text", "person", "give hand | send mail"),
    ("person", "thing text", "person", "lend loan | throw toss"),
)

# (kinds an adjective may describe, adjectives); the concepts of a row exclude each other.
ADJECTIVE_ROWS: tuple[tuple[str, str], ...] = (
    ("person animal", "happy glad | sad unhappy"),
    ("person", "rich wealthy | poor needy"),
    ("person animal", "young youthful | elderly aged"),
    ("person", "smart clever | foolish silly"),
    ("vehicle thing building animal", "big large | small little"),
    ("vehicle thing", "expensive costly | cheap inexpensive"),
    ("food", "hot warm | cold chilly"),
    ("text", "long lengthy | short brief"),
    ("outdoors", "quiet peaceful | noisy loud"),
)

MANNER_ROWS: tuple[str, ...] = (
    "quickly rapidly | slowly gradually",
    "quietly silently | loudly noisily",
    "carefully cautiously | carelessly recklessly",
)

# Times by the tenses which they go with; "_" stands for a space.
TIME_ROWS: tuple[tuple[str, str], ...] = (
    ("past", "yesterday | last_week | last_month"),
    ("future", "tomorrow | next_week | soon shortly"),
    ("present", "every_day daily | every_week weekly"),
    ("progressive", "now right_now | today this_day"),
    ("past present future", "at_noon at_midday | at_dawn at_sunrise | at_dusk at_sunset"),
)

# Determiner concepts: singular forms, plural forms.
DETERMINERS: dict[str, tuple[str, str]] = {
    "the": ("the", "the"),
    "a": ("a", ""),
    "this": ("this", "these"),
    "every": ("every each", ""),
    "two": ("", "two"),
    "three": ("", "three"),
    "many": ("", "many numerous"),
}

PREPOSITIONS: dict[str, str] = {"near": "near beside", "in": "in inside", "behind": "behind"}

PLURALS = {"child": "children", "thief": "thieves"}

# base / past / participle where the rule does not give them
IRREGULAR_TEXT = """
run/ran/run sleep/slept/slept weep/wept/wept see/saw/seen hear/heard/heard break/broke/broken
drive/drove/driven buy/bought/bought sell/sold/sold steal/stole/stolen lose/lost/lost
find/found/found eat/ate/eaten write/wrote/written build/built/built shut/shut/shut
give/gave/given send/sent/sent lend/lent/lent throw/threw/thrown
"""
IRREGULAR = {line.split("/")[0]: line.split("/") for line in IRREGULAR_TEXT.split()}
DOUBLING = frozenset(("run", "stop", "shut"))


@dataclass(frozen=True)
class Concept:
    """One meaning: its synonyms, what it may combine with, and the row of its relatives."""

    name: str
    words: tuple[str, ...]
    kinds: tuple[tuple[str, ...], ...]
    row: int


def _parse(rows: list[tuple[tuple[str, ...], str]]) -> dict[str, Concept]:
    table: dict[str, Concept] = {}
    for number, (kinds, text) in enumerate(rows):
        for cell in text.split("|"):
            words = tuple(word.replace("_", " ") for word in cell.split())
            fields = tuple(tuple(kind.split()) for kind in kinds)
            table[words[0]] = Concept(words[0], words, fields, number)
    return table


NOUNS = _parse([((kind,), text) for kind, text in NOUN_ROWS])
VERBS = _parse([(row[:3], row[3]) for row in VERB_ROWS])
ADJECTIVES = _parse([((kinds,), text) for kinds, text in ADJECTIVE_ROWS])
MANNERS = _parse([((), text) for text in MANNER_ROWS])
TIMES = _parse([((tenses,), text) for tenses, text in TIME_ROWS])


@cache
def of_kind(*kinds: str) -> tuple[str, ...]:
    """Nouns of any of the kinds."""
    return tuple(name for name, noun in NOUNS.items() if noun.kinds[0][0] in kinds)


def relatives(table: dict[str, Concept], name: str) -> tuple[str, ...]:
    """The other concepts of the same row."""
    row = table[name].row
    return tuple(other for other, c in table.items() if c.row == row and other != name)


def plural(noun: str) -> str:
    """``lady`` gives ``ladies``."""
    return PLURALS.get(noun) or _add_s(noun)


def _add_s(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def conjugate(verb: str) -> dict[str, str]:
    """The five forms of a verb: ``base``, ``s``, ``past``, ``part`` (participle), ``ing``."""
    stem = verb + verb[-1] if verb in DOUBLING else verb
    if verb.endswith("e") and not verb.endswith("ee"):
        stem = verb[:-1]
    soft = verb.endswith("y") and verb[-2] not in "aeiou"
    past = verb[:-1] + "ied" if soft else stem + "ed"
    _, past, part = IRREGULAR.get(verb, (verb, past, past))
    return {"base": verb, "s": _add_s(verb), "past": past, "part": part, "ing": stem + "ing"}


FORMS = {word: conjugate(word) for concept in VERBS.values() for word in concept.words}
