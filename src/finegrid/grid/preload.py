"""Imports of the fork server, done once so that no job has to.

Among it what the libraries import at first use only, such as pandas for rows of a table.
"""

import gc
import pkgutil
from importlib import import_module

import finegrid.data.builtin
import finegrid.methods
import finegrid.strategies.single

AT_FIRST_USE = (
    "pyarrow.compute",
    "pyarrow.pandas_compat",
    "pandas",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "transformers.models.roberta.modeling_roberta",
    "transformers.models.roberta.tokenization_roberta",
)

for name in AT_FIRST_USE:
    import_module(name)
for module in pkgutil.iter_modules(finegrid.methods.__path__):
    import_module(f"{finegrid.methods.__name__}.{module.name}")

gc.freeze()  # no job's collector need look through it, which would also copy its pages
