"""How much may be asked at once."""

CHARACTERS = 4_000
"""Of a prompt."""
TOKENS = 256
"""Of a prompt; fewer where the model's context is shorter."""
BODY = 64 * 1024
"""Bytes of a request."""
WAITING = 8
"""Questions that wait or are being answered; one is answered at a time."""
DRAWS = 20
"""Draws of a control beside one edit."""
GRID_DRAWS = 3
"""Draws of a control beside a grid."""
WEIGHTS = 3_000_000
"""Attention weights sent at once; beyond that the last layers only."""
CELLS = 20_000
"""Cells of a grid."""
