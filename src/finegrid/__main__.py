"""`python -m finegrid`: the `finegrid` command."""

from finegrid.cli import main

if __name__ == "__main__":
    main()
