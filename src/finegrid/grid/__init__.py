"""The grid: cells known by their hash, locks, and the slots they run on."""
