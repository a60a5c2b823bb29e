"""Folders of public data sets, and of users, as one list of samples (read.py); the images of any folder (tree.py)."""

from flawmap.data.layouts.folder import refuse_doubtful_among_good
from flawmap.data.layouts.listing import EXPECTED, Listing, Sample, Split
from flawmap.data.layouts.names import GOOD_NAMES
from flawmap.data.layouts.read import LAYOUTS, read_layout
from flawmap.data.layouts.table import read_table
from flawmap.data.layouts.tree import Gathered, find_images, gather, refuse_no_folder

__all__ = [
    "EXPECTED",
    "GOOD_NAMES",
    "LAYOUTS",
    "Gathered",
    "Listing",
    "Sample",
    "Split",
    "find_images",
    "gather",
    "read_layout",
    "read_table",
    "refuse_doubtful_among_good",
    "refuse_no_folder",
]
