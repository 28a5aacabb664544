"""Replaying searches on recorded learning curves: what another sampler, scheduler or cluster would have found."""
