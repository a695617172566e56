"""Which method for so many labels, minutes and megabytes."""
