"""Architectures that several runs can share, and whose first layers' result can be kept."""

# Embeddings, then layers, each a module: others make positions or masks, or pool, between them.
LAYERED = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
