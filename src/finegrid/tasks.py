"""What a task is: its columns, its labels, its metrics and where its rows come from."""

from dataclasses import dataclass, field

from finegrid.config import one_of, require

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

    @property
    def outputs(self) -> int:
        """Number of logits: the classes, or one for regression."""
        return 1 if self.kind == "regression" else len(self.labels)
