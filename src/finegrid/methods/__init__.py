"""Tuning methods: one file a method, each opening with its paper, formula and differences."""
