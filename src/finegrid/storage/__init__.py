"""Atomic files, content hashes, the cache and the model hub."""
