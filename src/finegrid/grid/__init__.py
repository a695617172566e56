"""The grid: cells known by their hash, a store of records, claims, and the slots they run on."""
