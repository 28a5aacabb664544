"""Search for the best variational autoencoder: ``python search.py --num-samples 50`` (as ``vae-tune search``)."""

try:
    from vae_tune.cli.main import main
except ModuleNotFoundError as error:
    remedy = "run make setup, then source .venv/bin/activate"
    raise SystemExit(f"search.py: {error.name} is not installed here: {remedy}.") from None

if __name__ == "__main__":
    main(["search"], prog="search.py")
