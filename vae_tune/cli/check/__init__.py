"""``vae-tune check``: what is wrong with a cluster, said before it costs money."""
