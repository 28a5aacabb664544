"""Everything that names or patches a private part of a library: one module per library, each with its version."""
