#!/bin/sh
# Make .venv and install the pinned environment. Arguments: the Python interpreter and, for another
# build of torch than the default, the index to take it from.
set -eu
python=$1
index=${2:-}

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || {
    echo "finegrid needs Python 3.11 to 3.13, not $("$python" --version); try: make PYTHON=python3.12" >&2
    exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
unset PYTHONDONTWRITEBYTECODE # without bytecode every later start costs several seconds
pip=".venv/bin/python -m pip --disable-pip-version-check"
torch=$(grep '^torch==' requirements.lock)
# torch first and with its own dependencies: its CUDA builds bring libraries that no lock can name
# for every platform. Everything else comes from the lock, with nothing left to resolve.
$pip install --quiet --constraint requirements.lock ${index:+--index-url "$index"} "$torch"
$pip install --quiet --no-deps --requirement requirements.lock
$pip install --quiet --no-deps --no-build-isolation --editable .
touch .venv/installed
