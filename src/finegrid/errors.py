"""Errors that a user can fix, as one line without a traceback, and checks that raise them."""

import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
NAME = re.compile(r"\w[\w.-]*")
LONGEST = 100  # bytes of a name of a task, a model or a method
EXCERPT = 60  # characters of a value in a message
REFUSALS = (  # of the machine, for which neither the command nor the code is to blame
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip
HINTS = {
    errno.EMFILE: " (ulimit -n raises the limit)",
    errno.ENOENT: " (is the working directory gone?)",
}

IMPORTABLE = "install the package (pip install -e FOLDER), or put its folder on PYTHONPATH"


class UserError(Exception):
    """A mistake in the command, the data or the environment: what, where and how to fix it."""


class Diverged(UserError):
    """Training produced a non-finite loss; the run keeps a record with status `diverged`."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The chain of exceptions behind an exception."""
    cause = error.__cause__ or error.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def refusal(error: BaseException) -> str:
    """One line on what the machine refused, such as space on a disk, and where; empty if nothing.

    Libraries in C and Rust raise errors of their own, which only name it.
    """
    for one in (error, *causes(error)):
        if isinstance(one, OSError) and one.errno in REFUSALS:
            return of_system(one)
        named = re.search(r"os error (\d+)", str(one))
        for number in REFUSALS:
            if os.strerror(number) in str(one) or (named and int(named[1]) == number):
                return f"{str(one).strip().splitlines()[-1]}{HINTS.get(number, '')}"
    return ""


def of_system(error: OSError) -> str:
    """An error of the operating system as one line: what, and of which path."""
    if error.errno is None or error.strerror is None:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    places = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    hint = "" if places and error.errno == errno.ENOENT else HINTS.get(error.errno, "")
    return ": ".join([*places, f"{error.strerror}{hint}"])


def nearest(word: str, names: Iterable[str]) -> str:
    """`did you mean ...? (available: ...)` for a word that is none of `names`; else nothing."""
    names = sorted(names)
    if word in names:  # of a requirement that holds: its message is not looked for
        return ""
    close = get_close_matches(word, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(name) for name in close)}? " if close else ""
    return f"{hint}(available: {', '.join(names) or 'none'})"


def is_name(value: object) -> bool:
    """Whether a value can name a task, a model or a method: letters, digits, `.`, `_` and `-`.

    Such a text is one directory's name, not hidden, and means nothing in a page or a formula.
    """
    return (
        isinstance(value, str)
        and NAME.fullmatch(value) is not None
        and len(value.encode(errors="replace")) <= LONGEST
    )


def printable(text: str) -> str:
    """A text on one line, without the codes that move a terminal's cursor or turn its text."""
    return CONTROL.sub(" ", text)


def shown(value: object) -> str:
    """A value in a message: as it is, or quoted where one would not see where it ends."""
    text = str(value)
    text = text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."
    return text if text.isprintable() and text == text.strip() != "" else repr(text)


def slug(text: str, most: int = LONGEST) -> str:
    """A text as a name: what is no letter, digit, `.`, `_` or `-` becomes `_`."""
    name = re.sub(r"[^\w.-]+", "_", text).lstrip(".-")[:most]
    while len(name.encode(errors="replace")) > most:
        name = name[:-1]
    return name or "_"


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_allowed(key: str, value: str, allow: Collection[str]) -> None:
    """Raise `UserError` unless the package that `value`, a dotted name, begins with is allowed."""
    package = value.partition(".")[0]
    require(
        package in allow,
        f"{key}={value} must be a class in finegrid or in a package that you trust and name: add "
        f"allow=[{package}], or --allow {package} where a finished run is read",
    )


def one_of(key: str, value: str, names: tuple[str, ...]) -> None:
    """Raise `UserError` with the nearest names unless the value is one of them."""
    require(value in names, f"{key}={value} is unknown; {nearest(value, names)}")
