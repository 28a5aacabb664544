"""The likelihoods p(x|z), one module each; ``likelihood.py`` says what a likelihood is."""
