"""The anatomy of a decoder, found by measuring: blocks, writes, heads, neurons, norms, embedding and unembedding."""

from .parts import (
    Anatomy,
    Attention,
    Block,
    EmbeddingTerm,
    HeadMap,
    Identity,
    Linear,
    Mlp,
    Norm,
    Unembedding,
    Write,
)
from .placed import device_of, input_device, not_finite_weights, stored
from .probe import NoNumbers, attention_of, measure, probe_ids, steady
from .tail import Tail

__all__ = [
    "Anatomy",
    "Attention",
    "Block",
    "EmbeddingTerm",
    "HeadMap",
    "Identity",
    "Linear",
    "Mlp",
    "NoNumbers",
    "Norm",
    "Tail",
    "Unembedding",
    "Write",
    "attention_of",
    "device_of",
    "input_device",
    "measure",
    "not_finite_weights",
    "probe_ids",
    "steady",
    "stored",
]
