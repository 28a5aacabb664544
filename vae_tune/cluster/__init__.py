"""Ray: started or joined, its slots, and what its workers run."""
