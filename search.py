"""Search for the best variational autoencoder: ``python search.py --num-samples 50`` (as ``vae-tune search``)."""

from vae_tune.cli import main

if __name__ == "__main__":
    main(["search"], prog="search.py")
