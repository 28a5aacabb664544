"""Conclusions from a study, in sentences: the public names of :mod:`vae_tune.analysis.advice`."""

from vae_tune.analysis.advice import Finding, about, conclusions, edges, final_findings, read_forecast, stopping

__all__ = ["Finding", "about", "conclusions", "edges", "final_findings", "read_forecast", "stopping"]
