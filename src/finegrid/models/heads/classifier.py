"""The task's own head: drawn from the seed alone, trained from scratch, alike for every method."""

from finegrid.models.heads.base import Head


class Classifier(Head):
    """A fresh head on the pooled state."""
