"""The claims of the two papers, as tests on our own runs."""
