"""Sweeps that outlast an interruption: what they are made of, and their finished shards on disk."""
