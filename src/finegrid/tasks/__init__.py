"""Tasks: what their columns, labels and metrics are, and one file for each kind of task."""
