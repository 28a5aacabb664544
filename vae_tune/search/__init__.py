"""Who proposes trials, who stops them, and when the search ends."""
