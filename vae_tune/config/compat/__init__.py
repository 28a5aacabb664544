"""All that patches or names a private part of a library, one module per library."""
