"""Whether photos are like those trained on, as a function: what `flawmap check` does (deploy/check.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flawmap.analysis.opening import Named, Photos, Say, bundle_of, out_of, photos_of, refuse_file, silent
from flawmap.bundle import Bundle
from flawmap.deploy.check import Checked, check_photos, drift_of, write_table
from flawmap.deploy.check import photos_of as good_photos_of
from flawmap.deploy.inspector import Inspector
from flawmap.measure.photos import MANY, Drift


@dataclass(frozen=True)
class DriftCheck:
    """Each photo with what is odd or wrong about it, and how far all have drifted; None for too few to tell."""

    photos: list[Checked]
    drift: Drift | None

    @property
    def odd(self) -> list[Checked]:
        """Photos unlike the good ones by themselves."""
        return [photo for photo in self.photos if photo.odd]

    @property
    def failed(self) -> list[Checked]:
        """Photos that could not be read; `error` says why."""
        return [photo for photo in self.photos if photo.error]

    @property
    def drifted(self) -> bool:
        """Whether verdicts on such photos are not to be trusted."""
        return self.drift is not None and self.drift.verdict == "drifted"

    def __repr__(self) -> str:
        return f"<DriftCheck: {self}>"

    def __str__(self) -> str:
        read = len(self.photos) - len(self.failed)
        told = f"fewer than {MANY} photos tell no drift" if self.drift is None else self.drift.sentence(read)
        return f"{len(self.odd)} of {read} photos are odd by themselves, {len(self.failed)} failed; {told}"


def drift_check(
    bundle: Bundle | Inspector | Named,
    images: Photos,
    out: Named | None = None,
    *,
    overwrite: bool = False,
    device: str = "auto",
    say: Say = silent,
    each: Callable[[Checked], object] = lambda photo: None,
) -> DriftCheck:
    """Compare photos with the good ones trained on: light, focus, position, exposure, how often codes occur.

    out: a csv with the figures of each photo. A photo that cannot be read has its error, and the others go on.
    say: is told what is passed over, a line each; each: is given every photo as it is checked

    Raises BundleError for a bundle that does not know its photos, ConfigError for `out` in the way, DataError.
    """
    opened, name = bundle_of(bundle)
    good = good_photos_of(opened, name)
    file = out_of(out)
    if file is not None:
        refuse_file(file, overwrite)
    checked = []
    for photo in check_photos(opened, good, photos_of(images, say), device):
        checked.append(photo)
        each(photo)
    if file is not None:
        write_table(file, checked)
    return DriftCheck(checked, drift_of(good, checked))
