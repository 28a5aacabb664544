"""The likelihoods p(x|z), one module each; ``likelihood.py`` defines their protocol."""
