"""Pre-trained models: loading, anatomy and surgery."""
