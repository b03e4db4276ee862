"""How much may be asked at once."""

CHARACTERS = 4_000
"""Of a prompt."""
TYPED = 200
"""Characters of any other text that is typed, such as a token's."""
TOKENS = 256
"""Of a prompt; fewer where the model's context is shorter."""
BODY = 64 * 1024
"""Bytes of a request."""
PATIENCE = 10.0
"""Seconds in which a whole request must have arrived."""
TAKEN = 64 * 1024
"""Bytes of an answer that must have been taken in as many seconds, where all of it is not."""
CONNECTIONS = 64
"""That are open at once."""
WAITING = 8
"""Questions that wait or are being answered; one is answered at a time."""
DRAWS = 20
"""Draws of a control beside one edit."""
GRID_DRAWS = 3
"""Draws of a control beside a grid."""
SMALL_GAP = 0.5
"""Logits between two prompts below which an effect is no longer given as a share of them."""
LARGE_SHARE = 3.0
"""The largest share that is still read as one; beyond it the gap is small against what patches do."""
WEIGHTS = 3_000_000
"""Attention weights sent at once; beyond that the last layers only."""
RECORDED = 2**27
"""Bytes of activations that a run of a prompt keeps for the views of it."""
CELLS = 20_000
"""Cells of a grid."""
