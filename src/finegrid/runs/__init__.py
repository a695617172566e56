"""What a run leaves in its directory: record, delta, predictions, and what identifies it."""
