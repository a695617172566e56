"""Which values the trials of a search try: a quasi-random design, nested in the number of trials.

Trial 0 is the method's published value. The next ones are spread over the space on the log scale by
the van der Corput sequence of base 2, and those of a second option by that of base 3, as in a
Halton sequence (Bergstra & Bengio 2012, JMLR 13, find such designs better than a grid). The first
trials of a longer search are those of a shorter one, so that more trials later keep the earlier.
"""

from collections.abc import Mapping

BASES = (2, 3)  # of the first and the second option that is searched
DIGITS = 3  # of a value that is not the published one

Space = Mapping[str, tuple[float, float]]  # option -> lowest and highest multiple of its own value
Point = dict[str, float]  # option -> value


def points(own: Mapping[str, float], space: Space, n: int, *, widen: float = 1.0) -> list[Point]:
    """The values that `n` trials try, trial 0 first.

    Args:
        own: option -> its published value, which the multiples are of.
        space: at most two options.
        n: how many trials.
        widen: factor by which every space reaches farther at both ends.
    """
    spans = {option: (low / widen, high * widen) for option, (low, high) in space.items()}
    return [
        {
            option: _rounded(own[option] * _multiple(position(trial, base), *spans[option]), trial)
            for option, base in zip(space, BASES, strict=False)
        }
        for trial in range(n)
    ]


def position(trial: int, base: int) -> float:
    """Where a trial lies between the lowest (0) and the highest multiple (1); trial 0 is at 1/2."""
    if base == 2:  # the sequence without its first point 0 begins at 1/2
        return _van_der_corput(trial + 1, base)
    return (_van_der_corput(trial, base) + 0.5) % 1


def _multiple(at: float, low: float, high: float) -> float:
    """Log-uniform on either side of 1, which lies in the middle."""
    return float(low ** (1 - 2 * at) if at < 0.5 else high ** (2 * at - 1))


def _rounded(value: float, trial: int) -> float:
    return float(f"{value:.{DIGITS}g}") if trial else value


def _van_der_corput(number: int, base: int) -> float:
    """The digits of a number behind the point, in reverse: 1, 2, 3 become 1/2, 1/4, 3/4."""
    result, unit = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        unit /= base
        result += digit * unit
    return result
