"""Records to tables. Reads records only; never imports torch."""
