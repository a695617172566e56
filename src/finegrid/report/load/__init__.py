"""Run directories and parquet files to frames and rankings."""
