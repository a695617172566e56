"""Parts of benchmarks/peers.py. `trainer`, `trainer_cell`, `loop` and `worker` run without finegrid."""
