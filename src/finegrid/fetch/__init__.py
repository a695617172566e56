"""Pre-trained models that come with a package of PyPI, converted and proven (`finegrid fetch`)."""
