"""What a task is: its columns, its labels, its metrics and where its rows come from."""

from dataclasses import dataclass, field, replace

from finegrid.errors import one_of, require

KINDS = ("classification", "regression")
METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman")
MEAN = "mean"


@dataclass
class Task:
    """One task; `conf/task/<name>.yaml` holds the values."""

    name: str
    text: list[str]  # one or two text columns
    metrics: list[str]  # all are recorded; the headline is their mean unless `headline` names one
    path: str = ""  # hub data set, `builtin`, or `files`
    subset: str = ""  # of the hub data set; the folder's name below a local root
    label: str = "label"
    kind: str = "classification"
    labels: list[str] = field(default_factory=list)  # names by number; empty: found in the rows
    headline: str = ""
    dev: list[str] = field(default_factory=lambda: ["validation"])  # labelled dev splits
    train: str | None = None  # files of `task=custom`
    test: str | None = None  # null: a stratified fifth of the training file
    positive: str | None = None  # class that F1 is of; null: the second of two
    numbered: bool = True  # labels may be given by number; not where the rows gave the names

    def __post_init__(self) -> None:
        one_of("task.kind", self.kind, KINDS)
        require(1 <= len(self.text) <= 2, f"task.text={self.text} must name one or two columns")
        require(bool(self.metrics), "task.metrics is empty; name at least one metric")
        for metric in self.metrics:
            one_of("task.metrics", metric, METRICS)
        self.headline = self.headline or (self.metrics[0] if len(self.metrics) == 1 else MEAN)
        one_of("task.headline", self.headline, (*self.metrics, MEAN))
        fits = ("pearson", "spearman") if self.kind == "regression" else METRICS[:3]
        wrong = [metric for metric in self.metrics if metric not in fits]
        require(not wrong, f"task.metrics={wrong} do not fit task.kind={self.kind}; use {fits}")
        alone = self.kind == "classification" and len(self.labels) == 1
        require(
            len(set(self.labels)) == len(self.labels) and not alone,
            f"task.labels={self.labels} must name two or more classes, each once",
        )
        self.numbered = self.numbered and not any(_is_number(name) for name in self.labels)
        if self.positive is not None:
            require(
                self.kind == "classification", "task.positive names a class; regression has none"
            )
            if self.positive not in self.labels and self.positive in ("True", "False"):
                self.positive = self.positive.lower()  # which YAML took for a yes or no
            if self.labels:
                one_of("task.positive", self.positive, tuple(self.labels))

    def named(self, labels: list[str]) -> "Task":
        """The task with the class names of a run, which number its classes."""
        return replace(self, labels=labels, numbered=bool(self.labels))

    @property
    def f1_class(self) -> int | None:
        """The class that F1 is of; None: the mean over all, or there is no F1."""
        if "f1" not in self.metrics:
            return None
        if self.positive is not None:
            return self.labels.index(self.positive)
        return 1 if len(self.labels) == 2 else None

    @property
    def outputs(self) -> int:
        """Number of logits: the classes, or one for regression."""
        return 1 if self.kind == "regression" else len(self.labels)


def _is_number(name: str) -> bool:
    """Whether a class is called by a number, which is then its name and no place in the list."""
    return name.lstrip("+-").replace(".", "", 1).isdigit()
