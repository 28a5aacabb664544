"""The study folder, written by one driver."""
