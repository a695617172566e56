"""Other ways to execute the same run: several runs in one pass, cached features."""
