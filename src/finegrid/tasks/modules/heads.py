"""Which heads (the options of `conf/head`) fit a task: its kind says so, in `Task.HEADS`."""

from finegrid.errors import nearest, require
from finegrid.tasks.task import Task


def check_head(task: Task, head: str) -> None:
    """Refuse a head that does not fit the kind, or a pattern that is not there.

    Raises:
        UserError: naming what fits, or what is missing.
    """
    require(
        head in task.HEADS,
        f"head={head} does not fit task.kind={task.kind}; {nearest(head, task.HEADS)}",
    )
    require(
        head != "pattern" or task.pattern is not None,
        "head=pattern needs task.pattern: a template with {label} and a place for each text "
        "column, and a word for each class; conf/task/rte.yaml has an example",
    )
