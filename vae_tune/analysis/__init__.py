"""Tables and sentences about a study; nothing is drawn here."""
