"""Typed settings, the search space, errors, names, files and storage."""
