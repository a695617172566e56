"""What runs, sweeps, the demo, the page, `recommend` and the API say at their end."""

from dataclasses import dataclass

from finegrid.report.comparison import Comparison


@dataclass(frozen=True)
class Answer:
    """The verdict on some runs, and what to do next."""

    sentence: str  # which method leads, which are level with it, whether any learned anything
    rising: str  # that validation still rose when the budget ended; "" where it did not
    command: str  # the next step: one shell command

    def text(self) -> str:
        """All of it, as a terminal shows it: a line each."""
        return "\n".join(filter(None, (self.sentence, self.rising, f"next: {self.command}")))


def answer(comparison: Comparison) -> Answer:
    """The verdict on runs that have been compared."""
    return Answer(f"{len(comparison.runs)} runs were compared.", "", "finegrid report --help")
