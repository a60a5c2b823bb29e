"""Label files of other tools as masks: `flawmap masks LABELS PHOTOS --out DIR`. One file a format, `read.py` above all.

Every format says by itself which pixels a polygon's edge takes; each reader follows its format's own tool, and says so.
"""
