"""Names of classes: their order, and how a message lists them."""

from collections.abc import Collection, Sequence
from unicodedata import category, normalize

from finegrid.errors import require, shown

LISTED = 20  # classes in a message


def in_order(names: Collection[str]) -> list[str]:
    """Sorted, by number where all are digits."""
    digits = all(name.isdigit() for name in names)
    return sorted(names, key=lambda name: (len(name) if digits else 0, name))


def need_unlike(names: Collection[str], what: str) -> None:
    """Refuse names that only spaces, or marks that are not seen, tell apart.

    Raises:
        UserError: naming them; `what` says whose they are.
    """
    seen: dict[str, list[str]] = {}
    for name in names:
        letters = (one for one in normalize("NFC", name) if category(one) != "Cf")
        seen.setdefault("".join(letters).strip(), []).append(name)
    alike = next((several for several in seen.values() if len(several) > 1), [])
    spelled = ", ".join(map(ascii, alike))
    require(not alike, f"{what} that look alike: {spelled}; write them in one way")


def listed(names: Sequence[str]) -> str:
    """The names, and how many more there are where these are too many for a message."""
    more = f" or {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(shown, names[:LISTED])) + more
