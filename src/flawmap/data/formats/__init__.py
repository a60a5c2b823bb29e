"""Readers of image formats, a small file each: what a header says, whether the bytes hold it, rare kinds of pixels.

`data.images` is the door; `data.decoding` and `data.header` behind it call these, and `data.white` asks some for their
level. Each reader looks at the header first, before memory is taken, and listens to its decoder: what that reports as
missing or corrupt is a `Damage`.
"""

from __future__ import annotations


class Damage(Exception):
    """Pixels that are missing or corrupt, by the file's own measure; str() is the reason in a few words."""


class Unsupported(Exception):
    """A whole file whose pixels are not read; str() says what it is and what to do."""


INSTALL = "install what reads it: pip install 'flawmap[formats]'"
