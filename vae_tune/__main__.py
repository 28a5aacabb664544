"""``python -m vae_tune`` is ``vae-tune``."""

from vae_tune.cli.main import main

if __name__ == "__main__":
    main(prog="python -m vae_tune")
