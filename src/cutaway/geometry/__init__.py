"""Where activations lie: means and covariances, turns, subspaces."""
