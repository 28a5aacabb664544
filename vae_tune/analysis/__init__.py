"""What a study shows, as tables and sentences; nothing is drawn here."""
