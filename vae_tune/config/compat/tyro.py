"""Private parts of tyro, checked with tyro 1.0.17."""

from tyro import _errors

ParseErrorEvent = _errors.ParseErrorEvent
on_parse_error = _errors.on_parse_error
"""Call a function at a parse error: the only way to replace tyro's boxes of ten lines."""
