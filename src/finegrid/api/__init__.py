"""The Python API; `finegrid` exports what is public."""
