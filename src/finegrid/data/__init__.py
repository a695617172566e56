"""From files, hub data sets or the offline world to tokenized batches."""
