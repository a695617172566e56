"""One file for each subcommand of `finegrid`, with `main(argv)`, which `finegrid.cli` calls."""
