"""Readers of the data sets; importing this package registers them all by their class names."""
