"""Image data sets as uint8 arrays in three splits."""
