"""What a person looks at: the terminal, live views, figures, the report."""
