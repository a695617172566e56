"""Parts of benchmarks/peers.py; `trainer`, `trainer_cell`, `loop`, `worker` need no finegrid."""
