"""Sweeps: a plan, what is recorded before, and the waves that compute only what an edit can reach."""
