"""Compare ways of fine-tuning a pre-trained language model, fairly."""

__version__ = "0.8.0"
