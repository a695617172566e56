"""Parts of benchmarks/peers.py. `trainer`, `trainer_cell` and `worker` run without finegrid."""
