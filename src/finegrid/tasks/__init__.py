"""What a task is: columns, labels, metrics."""
