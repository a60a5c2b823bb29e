"""Names that people give to folders of good parts, of defective ones and of masks; capitals and marks do not matter."""

from __future__ import annotations

import re

GOOD_NAMES = frozenset(
    {"good", "ok", "normal", "free", "0"}
    | {"io", "gut", "pass", "passed", "nodefect", "nodefects", "defectfree", "faultless", "accepted"}
    | {"良品", "合格", "正常"}
)
# Words that say good, also with a number or with a word of _THINGS: "GOOD_PARTS", "ok_01", "Gutteile".
_GOOD_WORDS = frozenset(
    {"good", "ok", "oks", "okay", "normal", "normals", "io", "gut", "gute", "guten", "gutteil", "gutteile"}
    | {"pass", "passed", "passes", "accept", "accepts", "accepted", "acceptable", "conform", "conforming", "compliant"}
    | {"nodefect", "nodefects", "defectfree", "faultless", "flawless", "defectless", "nondefective", "nondefect"}
    | {"nonanomalous", "anomalyfree", "flawfree", "faultfree", "fehlerfrei", "fehlerfreie", "fehlerlos", "einwandfrei"}
    | {"einwandfreie", "mangelfrei", "defektfrei", "unbeschadigt", "unbeschädigt", "unbeschaedigt", "undamaged"}
    | {"unbroken", "良品", "合格", "正常"}
)
_THINGS = frozenset(
    {"part", "parts", "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic", "pics"}
    | {"sample", "samples", "piece", "pieces", "product", "products", "item", "items", "unit", "units", "only", "all"}
    | {"teil", "teile", "bild", "bilder", "foto", "fotos", "aufnahmen", "muster", "class", "set", "data", "the"}
)
# Words of names that may be of good parts, and of what is neither good nor defective for all one knows.
_MAYBE_GOOD = frozenset(
    {
        "goods",
        "clean",
        "healthy",
        "negative",
        "negatives",
        "neg",
        "perfect",
        "golden",
        "reference",
        "references",
        "ref",
        "refs",
    }
    | {"fine", "intact", "sound", "standard", "bon", "bons", "bonne", "bonnes", "bueno", "buenos", "buena", "buenas"}
    | {"buono", "buoni", "conforme", "conformes", "conformi", "correct", "valid", "master", "sauber", "heil", "intakt"}
    | {"background", "unlabeled", "unlabelled", "unlabel", "unknown", "unsorted", "unsure", "unclear", "uncertain"}
    | {"unclassified", "undefined", "unbekannt", "unsortiert", "unklar", "calibration", "calibrations", "calib"}
    | {"kalibrierung", "kalibration", "flatfield", "darkframe", "whitebalance"}
    | {"goed", "goede", "dobry", "dobre", "dobrý", "dobré", "bom", "boa", "boas", "ryohin", "ryouhin"}
)
# Words of a name that says defective; with a word of _NOT before, or "free" behind, it says good.
BAD_WORDS = frozenset(
    {"bad", "ng", "nok", "ko", "nio", "notok", "defect", "defects", "defective", "defectives", "defekt", "defekte"}
    | {"anomaly", "anomalies", "anomalous", "abnormal", "faulty", "fault", "faults", "reject", "rejects", "rejected"}
    | {"fail", "failed", "fails", "scrap", "damaged", "broken", "flaw", "flaws", "flawed", "nogood", "notgood"}
    | {"schrott", "schrottteil", "schrottteile", "schlechtteil", "schlechtteile", "ausschussteil", "ausschussteile"}
    | {"fehlteil", "fehlteile", "mangelhaft", "nioteile", "rebut", "rebuts", "scarto", "scarti"}
    | {"fehler", "fehlerhaft", "schlecht", "ausschuss", "nonconforming", "unacceptable", "unnormal"}
    | {"scratch", "scratches", "crack", "cracks", "dent", "dents", "hole", "holes", "contamination"}
    | {"不良", "不良品", "缺陷", "次品", "不合格", "异常", "異常"}
    | {"kaputt", "kaputte", "beschädigt", "beschaedigt", "kratzer", "riss", "risse", "delle", "dellen", "schlechte"}
    | {"fehlerhafte", "defekter", "mangel", "mängel", "verworfen"}
    | {"défectueux", "defectueux", "défectueuse", "defectueuse", "défectueuses", "defectueuses", "défaut", "defaut"}
    | {"défauts", "defauts", "mauvais", "mauvaise", "mauvaises", "rayure", "rayures", "fissure", "fissures"}
    | {"malo", "malos", "mala", "malas", "defectuoso", "defectuosos", "defectuosa", "defectuosas", "defecto"}
    | {"defectos", "rechazado", "rechazados", "rechazo", "rechazos", "grieta", "grietas"}
    | {"difettoso", "difettosi", "difettosa", "difettose", "difetto", "difetti", "cattivo", "cattivi", "graffio"}
    | {"graffi", "defeituoso", "defeituosos", "defeituosa", "defeituosas", "defeito", "defeitos", "ruim", "ruins"}
    | {"rejeitado", "rejeitados", "wada", "wady", "wadliwy", "wadliwe", "uszkodzony", "uszkodzone", "zły", "złe"}
    | {"vada", "vady", "vadný", "vadny", "vadné", "vadne", "špatný", "spatny", "špatné", "spatne", "zmetek", "zmetky"}
    | {"defecten", "fout", "fouten", "slecht", "slechte", "afgekeurd", "kras", "krassen", "beschadigd"}
    | {"furyo", "furyou", "furyohin", "furyouhin", "kizu"}
)
_NOT = frozenset(
    {"no", "non", "not", "without", "free", "zero", "un", "kein", "keine", "ohne"} | {"nicht", "sans", "sin", "false"}
)
_PHRASE = 3  # words at an end of a file's name that say good or bad together: "n_i_O"
_TELLING = _GOOD_WORDS | GOOD_NAMES | BAD_WORDS | _NOT | {"n", "i", "o"}
MASK_NAMES = frozenset(
    {"mask", "masks", "gt", "gts", "groundtruth", "groundtruths", "maskimage", "maskimages", "gtmask", "gtmasks"}
    | {"segmask", "segmasks", "binarymask", "binarymasks", "segmentationmask", "segmentationmasks", "pixelmask"}
    | {"defectmask", "defectmasks", "segmentationclass", "segmentationobject", "segmentationclasspng", "labelmask"}
    | {"labelmasks", "maske", "masken", "masques", "掩码", "掩膜"}
)
# Words of names that masks have, and other things too: the pictures themselves must tell.
MASK_WORDS = frozenset(
    {"mask", "masks", "gt", "groundtruth", "truth", "label", "labels", "labelled", "labeled", "annotation"}
    | {"annotations", "annotated", "annot", "anno", "ann", "segmentation", "segmentations", "seg", "segs", "segment"}
    | {"overlay", "overlays", "heatmap", "heatmaps", "visualization", "visualisation"}
    | {"segments", "roi", "rois", "matte", "mattes", "maske", "masken", "masque", "masques", "mascara", "mascaras"}
    | {"标注", "标签", "标记"}
)
PHOTO_FOLDERS = frozenset({"image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "jpegimages"})
SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})

_STRONG_ENDING = re.compile(r"^(?P<stem>.+?)[\s_.\-]+(?:masks?|gt|ground[\s_\-]?truth)(?:[\s_.\-]*\d+)?$", re.I)
_WEAK_ENDING = re.compile(
    r"^(?P<stem>.+?)[\s_.\-]+(?:labels?|labelids|segmentation|seg|annotation|annot|anno|roi|matte|maske)"
    r"(?:[\s_.\-]*\d+)?$",
    re.I,
)
_BEGINNING = re.compile(r"^(?:mask|gt|label|seg)[\s_.\-]+(?P<stem>.+)$", re.I)
_MOST_PARTS = 16  # of a stem, all of whose inner parts are tried
_COPY = re.compile(
    r"\((?:copy|kopie|copie|copia|副本|\d+)\)| - (?:copy|kopie|copie|copia|副本)|(?:^|_|\b)copy(?:_of|\b)", re.I
)


def plain(name: str) -> str:
    """Letters and digits of a name alone, in lower case: "Ground_Truth" and "i.O." are "groundtruth" and "io"."""
    return re.sub(r"[\W_]+", "", name.casefold()) or name.casefold()


def words_of(name: str) -> list[str]:
    """The words of a name in lower case, parted by marks and by capitals."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[\W_]+", parted.casefold()) if word]


def is_good(name: str) -> bool:
    """Whether a folder or label of this name is plainly of good parts: "good", "OK_images", "no defects", "good_01"."""
    if plain(name) in GOOD_NAMES:
        return True
    words = _plain_words(name)
    if plain(name).rstrip("0123456789") in _GOOD_WORDS:
        return True
    said = set(words) - _THINGS
    if not said - _GOOD_WORDS:
        return bool(said)
    denied, rest = said & _NOT, said - _NOT
    return bool(denied) and bool(rest) and rest <= BAD_WORDS


def may_be_good(name: str) -> bool:
    """Whether a folder or label of this name may be of good parts, or of neither: it is not taken for defective
    unasked. So is a name that says good and something else, as "ok_more"."""
    if is_good(name) or is_bad(name):
        return False
    words = set(_plain_words(name))
    if words & _MAYBE_GOOD or plain(name).rstrip("0123456789") in _MAYBE_GOOD:
        return True
    if plain(name) in {"class0", "label0", "category0"} or (words & BAD_WORDS and words & _NOT):
        return True
    return bool(words & _GOOD_WORDS) and not words & (_NOT | BAD_WORDS)


def _plain_words(name: str) -> list[str]:
    """Words of a name without numbers in them or behind them."""
    return [word for word in (part.rstrip("0123456789") for part in words_of(name)) if word]


def is_bad(name: str) -> bool:
    """Whether a folder of this name is plainly of defective parts."""
    words = set(_plain_words(name))
    if plain(name) in BAD_WORDS:
        return True
    if is_good(name):
        return False
    denied = words & _NOT
    return bool(BAD_WORDS & words and not denied) or bool(denied and words & _GOOD_WORDS and "free" not in denied)


def said_by_stem(stem: str) -> str | None:
    """ "good" or "bad" where a file's name begins or ends with words that say so ("OK_0", "part3_not_ok"), else None;
    None too where its beginning says one and its end the other."""
    words = _plain_words(stem)
    ends = {_said_at(words, begins) for begins in (True, False)} - {None}
    return ends.pop() if len(ends) == 1 else None


def _said_at(words: list[str], begins: bool) -> str | None:
    """What the first words of a name, or the last, say: of the most that do, as "not ok" says more than "ok"."""
    for count in range(min(_PHRASE, len(words)), 0, -1):
        phrase = words[:count] if begins else words[-count:]
        if not all(word in _TELLING for word in phrase):
            continue
        joined = " ".join(phrase)
        if is_good(joined):
            return "good"
        if is_bad(joined):
            return "bad"
    return None


def is_mask_folder(name: str) -> bool:
    """Whether a folder of this name holds masks, whatever they look like; numbers behind it do not matter."""
    return plain(name).rstrip("0123456789") in MASK_NAMES


def may_be_mask_folder(name: str) -> bool:
    """Whether a folder of this name may hold masks, if they look like some."""
    words = {word.rstrip("0123456789") for word in words_of(name)} | {plain(name).rstrip("0123456789")}
    return bool(MASK_WORDS & words)


def mask_stems(stem: str) -> tuple[str, ...]:
    """Stems of photos, in lower case, that a mask of this stem may be of, its own first."""
    found = [stem.casefold()]
    for pattern in (_STRONG_ENDING, _WEAK_ENDING, _BEGINNING):
        if match := pattern.match(stem):
            found.append(match["stem"].casefold())
    return tuple(dict.fromkeys(found))


def marked_stem(stem: str) -> tuple[str, bool] | None:
    """(photo's stem in lower case, whether the name is sure) of a stem that ends or begins as a mask's does."""
    if match := _STRONG_ENDING.match(stem):
        return match["stem"].casefold(), True
    if match := _WEAK_ENDING.match(stem) or _BEGINNING.match(stem):
        return match["stem"].casefold(), False
    return None


def inner_stems(stem: str) -> list[str]:
    """Parts of a stem, in lower case, that may be another's whole name, the longest first: parted by marks, by capitals
    and where digits begin or end, so that "part1" is no part of "part10"."""
    parts = re.findall(r"\d+|[^\W\d_]+|[\W_]", re.sub(r"(?<=[a-z])(?=[A-Z])", "\0", stem))
    count = len(parts)
    many = count > _MOST_PARTS  # then only what the stem begins or ends with
    found = {
        "".join(parts[first:last]).replace("\0", "").casefold()
        for first in range(count)
        for last in range(first + 1, count + 1)
        if not many or first == 0 or last == count
    }
    named = (part for part in found if part != stem.casefold() and re.search(r"[^\W_]", part))
    return sorted(named, key=lambda part: (-len(part), part))


def is_copy(stem: str) -> bool:
    """Whether a file is named as the copies that file managers make."""
    return _COPY.search(stem) is not None
