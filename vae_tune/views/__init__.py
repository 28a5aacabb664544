"""Output for people: the terminal, live views, figures, the report."""
