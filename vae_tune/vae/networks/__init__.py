"""The networks of a VAE, one module each; ``network.py`` says what a network is."""
