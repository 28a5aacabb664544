"""The variational autoencoder: model, objective, training, checkpoints, likelihood."""
