"""Published claims as tests on our own runs."""
