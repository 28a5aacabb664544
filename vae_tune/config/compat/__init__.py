"""Everything that names or patches a private part of a library: one module per library, each with its version.

Modules import these at their top, since each of them needs the library itself there, and is in turn imported lazily:
``tests/test_walls.py`` checks what importing each command and task loads.
"""
