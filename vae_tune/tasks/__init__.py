"""Whole pieces of work, from a configuration to a result, callable from Python."""
