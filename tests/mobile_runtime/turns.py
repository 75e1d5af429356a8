"""Messages and pictures for tests of sessions."""

import numpy as np
from PIL import Image


def user(*parts):
    """A user's message of texts and pictures."""
    return {"role": "user", "content": [_part(part) for part in parts]}


def _part(part):
    if isinstance(part, Image.Image):
        return {"type": "image", "image": part}
    return {"type": "text", "text": part}


def gradient(width, height, shift=0):
    """A picture whose colours change from left to right."""
    x = (np.arange(width) + shift)[None, :, None] * np.array([1, 2, 3])
    return Image.fromarray(np.broadcast_to(x, (height, width, 3)).astype(np.uint8))
