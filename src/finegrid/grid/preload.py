"""What the fork server imports once, so that no job has to."""

import pyarrow.parquet
import transformers.models.bert.modeling_bert
import transformers.models.roberta.modeling_roberta

import finegrid.builtin
import finegrid.methods.full
import finegrid.run

__all__ = ["finegrid", "pyarrow", "transformers"]
