"""What several kinds of task share; no kind itself."""
