"""Damaged tables that users hand in: a csv of labels, VisA's split, the csv of a watch. One line, or what it lists."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from mutations import NUMBERS, WORDS, changed_text, held_to_bounds, mutations

from flawmap.data.images import write_image
from flawmap.data.layouts import read_layout, read_table
from flawmap.errors import FlawmapError
from flawmap.station.seen import COLUMNS, Table
from flawmap.tables import WITH_COMMA, TableWriter, read_rows, style_of

LABELS = {
    "commas": "image,split,label,mask\na.png,train,good,\nb.png,train,ok,\nc.png,test,scratch,m.png\nd.png,test,,\n",
    "semicolons": '\ufeffImage;Split;Label\n"a.png";"train";"i.O."\nb.png;test;Kratzer\n',
    "tabs": "label\timage\tsplit\r\n0\ta.png\ttrain\r\n1\tb.png\ttest\r\n",
}
VISA = "object,split,label,image,mask\npart,train,normal,part/Data/Images/Normal/1.JPG,\n" + (
    "part,test,normal,part/Data/Images/Normal/2.JPG,\npart,test,anomaly,part/Data/Images/Anomaly/1.JPG,x\n"
)


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((8, 8, 3), 90, np.uint8))


@pytest.mark.parametrize("kind", LABELS)
def test_a_mutated_csv_of_labels_is_one_line_or_samples_of_files_that_are_there(kind: str, tmp_path: Path) -> None:
    for name in "abcdm":
        photo(tmp_path / f"{name}.png")
    file = tmp_path / "split.csv"
    file.write_text(LABELS[kind], encoding="utf-8")
    assert sum(sample.defective is True for sample in read_table(file)) == 1, "unchanged, it is read"
    for number in range(mutations("tables", 6)):
        file.write_bytes(changed_text(LABELS[kind], random.Random(f"{kind} {number}")))
        for read in (lambda: read_table(file), lambda: list(read_layout(tmp_path).samples)):
            with held_to_bounds(f"mutation {number} of {kind}"):
                samples = read()
                assert samples and all(sample.image.is_file() for sample in samples)
                assert all(sample.mask is None or sample.mask.is_file() for sample in samples)
                assert len({sample.image.resolve() for sample in samples}) == len(samples)


def test_a_mutated_split_of_visa_is_one_line_or_samples(tmp_path: Path) -> None:
    folder = tmp_path / "part"
    for name in ("Normal/1", "Normal/2", "Anomaly/1"):
        photo((folder / "Data" / "Images" / name).with_suffix(".png"))
    text = VISA.replace(".JPG", ".png")
    table = tmp_path / "split_csv" / "1cls.csv"
    table.parent.mkdir()
    for number in range(mutations("tables", 6)):
        table.write_bytes(changed_text(text, random.Random(f"visa {number}")) if number else text.encode())
        with held_to_bounds(f"mutation {number}"):
            listing = read_layout(folder)
            assert listing.layout == "visa" and listing.samples
            assert all(sample.image.is_file() for sample in listing.samples)


def told(key: str) -> dict[str, object]:
    return {"file": f"{key}.png", "verdict": "pass", "score": 0.25, "regions": [], "key": key * 64}


@pytest.mark.parametrize("language", ["", "de"])
def test_a_mutated_csv_of_a_watch_is_one_line_or_goes_on_with_whole_lines(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAWMAP_TABLES", language)
    file = tmp_path / "parts.csv"
    table = Table(file)
    for key in "abc":
        table.give(told(key))
    table.close()
    whole = file.read_text(encoding="utf-8")
    for number in range(mutations("tables", 6)):
        data = changed_text(whole, random.Random(f"{language} {number}"))
        file.write_bytes(data)
        with held_to_bounds(f"mutation {number}"):
            try:
                table = Table(file)
            except FlawmapError:
                assert file.read_bytes() == data, f"mutation {number}: what is refused is left as it is"
                raise
            table.give(told("d"))
            table.close()
            grown = file.read_bytes()
            assert grown.count(b"d" * 64) == 1 and grown.endswith(b'd"\n'), f"mutation {number}"
            lines = [line for line in data.split(b"\n") if len(line.split(b'","')) == len(COLUMNS)]
            assert all(line in grown for line in lines[1:-1]), f"mutation {number}: a line is lost"


@pytest.mark.parametrize("language", [None, "de"])
def test_any_text_comes_back_from_a_table_as_it_was(language: str | None, tmp_path: Path) -> None:
    file, style = tmp_path / "x.csv", style_of(language)
    for number in range(mutations("tables", 6)):
        chance = random.Random(number)
        cells = ["".join(chance.choices([*WORDS, *NUMBERS, "=1", "+", "@", "-"], k=chance.randrange(3))) for _ in "ab"]
        cells = [cell.replace("\0", "").replace("\r", "\n") for cell in cells]
        if language and any(WITH_COMMA.fullmatch(cell) for cell in cells):
            continue  # a text that reads as a number there is one
        with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            writer = TableWriter(stream, style)
            writer.writerow(["one", "two"])
            writer.writerow(cells)
        assert [*read_rows(file)[0].values()] == cells, f"mutation {number}"
