"""An artefact finds what PyTorch finds, or is not handed over. Networks are the smallest there are."""

from __future__ import annotations

import dataclasses
import io
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

import onnx
import onnxruntime
from onnx import numpy_helper

from flawmap.bundle import Bundle, build, load_bundle, load_imagenet, save_bundle, sha256
from flawmap.config import load_recipe, recipe_from_text
from flawmap.data.images import write_image
from flawmap.deploy import export as module
from flawmap.deploy.agreement import Agreement, Ranking, compare, following, painted
from flawmap.deploy.artefact import GraphRuntime, find_artefact, open_session, read_about
from flawmap.deploy.export import Exported, export
from flawmap.deploy.graph import InstanceNorm, SubPixel, searching
from flawmap.deploy.inspector import Inspector
from flawmap.errors import BundleError, ConfigError, DisagreementError
from flawmap.measure.threshold import choose_threshold
from flawmap.model.blocks import standardised
from flawmap.model.codebook import Codebook
from flawmap.model.detection import DetectionUNet
from flawmap.model.discrete import GeneralDecoder
from flawmap.model.familiarity import LOW, levelled, surroundings

TINY = Path(__file__).parents[1] / "tiny.toml"
AGREES = Agreement(8, 9e-5, 1e-6, 0.1, 1e-3, 1e-4, 3e-7)
RANKS = Ranking(96, 0.97, 0.81, 0.82, 0.7, 0.7, 0.05, 0.01, 0.3)


def make_bundle(folder: Path, name: str, threshold: bool = True, settings: tuple[str, ...] = ()) -> Path:
    recipe = load_recipe(TINY, ["image.width=96", 'image.shrink="area"', 'model.norm="batch"', *settings])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        model = build(recipe.model, with_refinement=recipe.refine.steps > 0).eval()
        parts = list(model.modules())
        for part in parts:
            if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                part.reset_parameters()
        for part in parts:  # untrained, they draw and see little; a flat map would agree with anything
            if isinstance(part, GeneralDecoder):
                part.up2.weight.mul_(10)
            if isinstance(part, DetectionUNet):
                part.out.weight.mul_(40)
        if model.familiarity is not None and model.imagenet is not None:
            load_imagenet(model.imagenet)
            around = surroundings(model.imagenet(torch.rand(3, 3, 64, 96)))
            cells = around.permute(0, 2, 3, 1).flatten(0, 2)
            for source, density in model.familiarity.named_densities():
                if source == LOW:
                    density.mean.copy_(cells.mean(0))
                    density.whitening.copy_(torch.eye(cells.shape[1]) / cells.std(0).mean())
                    density.remember(cells)
    limit = dataclasses.replace(choose_threshold([0.1] * 99, [0.1] * 99, 0.1), score=0.5) if threshold else None
    save_bundle(Bundle(model, recipe, limit, {"data": "drawn"}), folder / name)
    return folder / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def bundle(place: Path) -> Path:
    return make_bundle(place, "part.bundle")


@pytest.fixture(scope="module")
def onnx_file(bundle: Path) -> Exported:
    return export(bundle, "onnx", dynamic_batch=True)


@pytest.fixture(scope="module")
def openvino_folder(bundle: Path) -> Exported:
    return export(bundle, "openvino")


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def exported(request: pytest.FixtureRequest) -> Exported:
    made: Exported = request.getfixturevalue("onnx_file" if request.param == "onnx" else "openvino_folder")
    return made


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (133, 201, 3), dtype=np.uint8)


def test_an_artefact_is_one_thing_and_nothing_is_left_beside_it(
    place: Path, onnx_file: Exported, openvino_folder: Exported
) -> None:
    assert onnx_file.file == place / "part.onnx"
    assert sorted(path.name for path in openvino_folder.file.parent.iterdir()) == ["part.bin", "part.xml"]
    assert not [path for path in place.iterdir() if path.name.startswith(".")]
    assert find_artefact(openvino_folder.file.parent) == openvino_folder.file


@pytest.mark.parametrize(("runtime", "fusion"), [("onnx", "maximum"), ("openvino", "log-mean-exp")])
def test_an_artefact_holds_all_kinds_of_evidence(runtime: str, fusion: str, place: Path, photo: np.ndarray) -> None:
    kinds = 'model.familiarity=["encoder", "local", "detection", "imagenet"]'
    path = make_bundle(
        place,
        f"{fusion}-{runtime}.bundle",
        settings=("refine.steps=0", kinds, f"model.fusion={fusion}", "model.guided=true", "model.score_pixels=49"),
    )
    made = export(path, runtime, dynamic_batch=runtime == "onnx")
    check = compare(open_session(made.file), load_bundle(path), [photo, photo[:64, :96]])
    assert check.fault == "" and check.map < 1e-4 and check.score < 1e-4
    found = open_session(made.file)(photo[None])
    assert np.abs(found["map"] - found["detection_map"]).max() > 0.01
    known = load_bundle(path)
    assert known.model.familiarity is not None
    for _, density in known.model.familiarity.named_densities():
        density.memory = None
    assert "differs" in compare(open_session(made.file), known, [photo]).fault, "what is remembered is in it"


def test_an_artefact_finds_what_pytorch_finds_on_an_image_of_any_size(
    bundle: Path, exported: Exported, photo: np.ndarray
) -> None:
    check = compare(open_session(exported.file), load_bundle(bundle), [photo, photo[:64, :96], photo[:20, :30]])
    assert check.fault == ""
    assert check.map < 1e-4 and check.score < 1e-4
    found = open_session(exported.file)(photo[None])
    assert np.ptp(found["map"]) > 0.1
    assert found["map"].shape == (1, 64, 96)
    assert found["object_image"].shape == found["general_image"].shape == (1, 64, 96, 3)
    assert found["verdict"].tolist() == [found["score"][0] > 0.5]


def test_an_inspector_on_an_artefact_gives_the_inspection_of_pytorch(
    bundle: Path, exported: Exported, photo: np.ndarray
) -> None:
    opened = load_bundle(bundle)
    wanted, other = Inspector(opened, "cpu"), Inspector(opened, runtime=GraphRuntime(exported.file))
    for image in (photo, photo.astype(np.uint16) * 200):
        mine, its = wanted.inspect(image), other.inspect(image)
        assert its.score == pytest.approx(mine.score, abs=1e-4)
        assert its.map == pytest.approx(mine.map, abs=1e-4)
        assert its.object_image == pytest.approx(mine.object_image, abs=1e-4)
        assert its.general_image == pytest.approx(mine.general_image, abs=1e-4)
        assert (its.defective, len(its.regions)) == (mine.defective, len(mine.regions))


def test_any_number_of_images_at_once_when_the_batch_is_dynamic(onnx_file: Exported) -> None:
    photos = np.random.default_rng(4).integers(0, 256, (3, 80, 70, 3), dtype=np.uint8)
    session = open_session(onnx_file.file)
    together = session(photos)
    for index, each in enumerate(photos):
        alone = session(each[None])
        assert together["score"][index] == pytest.approx(alone["score"][0], abs=1e-5)
        assert together["map"][index] == pytest.approx(alone["map"][0], abs=1e-5)


def test_an_artefact_says_what_it_is(bundle: Path, exported: Exported) -> None:
    about = read_about(exported.file)
    assert about == exported.about
    assert about["weights_sha256"] == sha256(bundle / "weights.safetensors")
    assert recipe_from_text(about["recipe"]) == load_bundle(bundle).recipe
    assert about["threshold"]["score"] == 0.5
    assert about["classes"] == ["good", "defective"]
    assert about["provenance"] == {"data": "drawn"}
    assert about["check"]["on"] == "drawn" and about["check"]["map"] < 1e-4
    assert about["precision"] == "float32"


def test_an_artefact_holds_no_path_of_the_machine_it_was_made_on(exported: Exported) -> None:
    for file in exported.file.parent.glob("part.*"):
        if file.suffix in (".onnx", ".xml"):
            assert str(Path(module.__file__).parents[2]).encode() not in file.read_bytes()


def test_the_lean_family_is_exported_too_and_without_a_threshold_there_is_no_verdict(
    tmp_path: Path, photo: np.ndarray
) -> None:
    settings = ("model.detection_scale=2", "model.detection_sees_image=true", "refine.steps=0")
    source = make_bundle(tmp_path, "lean.bundle", threshold=False, settings=settings)
    made = export(source, "onnx")
    assert not [node for node in onnx.load(made.file).graph.node if "Normalization" in node.op_type]
    found = open_session(made.file)(photo[None])
    assert "verdict" not in found
    assert found["score"][0] == pytest.approx(Inspector(load_bundle(source), "cpu").inspect(photo).score, abs=1e-4)


def test_tiles_are_inspected_by_an_artefact_as_by_pytorch(tmp_path: Path) -> None:
    """A scope too: flawmap applies it to the maps of the artefact, which by itself gives no verdict then."""
    settings = ("image.policy=tile", "image.include=[[[0, 0], [0.6, 0], [0.6, 1], [0, 1]]]")
    source = make_bundle(tmp_path, "tiles.bundle", settings=settings)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        large = np.random.default_rng(number).integers(0, 256, (150, 210, 3), dtype=np.uint8)
        write_image(folder / f"{number}.png", large)
    made = export(source, "onnx", images=folder)
    assert "64x96 tile" in made.about["input"] and made.about["check"]["map"] < 1e-4
    assert "verdict" not in open_session(made.file)(large[None, :64, :96])
    opened = load_bundle(source)
    mine = Inspector(opened, "cpu").inspect(large)
    its = Inspector(opened, runtime=GraphRuntime(made.file)).inspect(large)
    assert its.map == pytest.approx(mine.map, abs=1e-4) and its.map.shape == (150, 210)
    assert its.score == pytest.approx(mine.score, abs=1e-4) and mine.score > 0
    assert (its.map[:, 130:] == 0).all()


def test_the_norm_of_the_paper_is_exported_as_exactly() -> None:
    torch.manual_seed(0)
    planes = 3 * torch.randn(2, 5, 96, 160) + torch.arange(5)[:, None, None]
    norm = torch.nn.InstanceNorm2d(5)
    exact = norm(planes.double())
    found = InstanceNorm(norm)(planes)
    assert (found - exact).abs().max() < 2e-6


def test_a_drawing_by_sub_pixels_is_the_transposed_convolution() -> None:
    torch.manual_seed(0)
    drawing = torch.nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1)
    features = torch.randn(2, 5, 6, 9)
    assert (SubPixel(drawing)(features) - drawing(features)).abs().max() < 2e-6


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """Let the next export build a graph that is not the bundle's."""
    good = module.inspection_graph

    def spoilt(network: Any, opened: Bundle) -> Any:
        whole = good(network, opened)
        change(whole.graph)
        return whole

    monkeypatch.setattr(module, "inspection_graph", spoilt)


def test_an_artefact_that_disagrees_is_refused_and_what_was_there_stays(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shift_last_convolution(graph: Any) -> None:
        biases = [node.input[2] for node in graph.node if node.op_type == "Conv" and len(node.input) == 3]
        (bias,) = (tensor for tensor in graph.initializer if tensor.name == biases[-1])
        changed = numpy_helper.to_array(bias) + np.array([0, 0.01], np.float32)
        bias.CopyFrom(numpy_helper.from_array(changed, bias.name))

    spoil(monkeypatch, shift_last_convolution)
    (tmp_path / "part.onnx").write_bytes(b"earlier")
    with pytest.raises(BundleError, match=r"is refused and was not written: its map differs.*--images FOLDER"):
        export(bundle, "onnx", tmp_path / "part.onnx", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["part.onnx"]
    assert (tmp_path / "part.onnx").read_bytes() == b"earlier"


@pytest.mark.parametrize(("of", "largest"), [(standardised, 8e-6), (levelled, 2e-6)])
def test_a_nearly_even_photo_is_standardised_and_levelled_in_onnx_as_in_pytorch(
    of: Callable[[torch.Tensor], torch.Tensor], largest: float
) -> None:
    class Part(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return of(image)

    image = 0.8 + 0.004 * torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Part().eval(), (image,), file, input_names=["image"], opset_version=18, verbose=False, dynamo=True
        )
    found = onnxruntime.InferenceSession(file.getvalue()).run(None, {"image": image.numpy()})[0]
    assert np.abs(found - of(image).numpy()).max() < largest


def test_codes_given_to_pytorch_are_followed_and_a_wrong_one_is_seen(bundle: Path) -> None:
    model = load_bundle(bundle).model
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    own: list[torch.Tensor] = []
    books: list[Codebook] = []

    def record(book: Codebook, features: torch.Tensor) -> torch.Tensor:
        own.append(Codebook.nearest(book, features))
        books.append(book)
        return own[-1]

    with torch.inference_mode(), searching(model, record):
        plain = model(pixels)
    assert [len(own), books[0] is books[2], books[1] is books[3]] == [4, True, True]
    same, others, excess = following(model, pixels, own)
    assert (others, excess) == (0, 0.0) and torch.equal(same.map, plain.map)
    wrong = [own[0], (own[1] + 1) % books[1].size, own[2], own[3]]
    changed, others, excess = following(model, pixels, wrong)
    assert others >= own[1].numel() and excess > 1e-3
    assert not torch.equal(changed.general_image, plain.general_image)


@pytest.mark.parametrize(
    ("check", "change", "fault"),
    [
        (AGREES, {}, ""),
        (AGREES, {"map": 1.1e-4}, "differs"),
        (AGREES, {"score": 1.1e-4}, "differs"),
        (AGREES, {"map": float("nan")}, "differs"),
        (AGREES, {"excess": 1e-4}, "not the nearest"),
        (RANKS, {}, ""),
        (RANKS, {"rank": 0.89}, "Spearman"),
        (RANKS, {"rank": float("nan")}, "Spearman"),
        (RANKS, {"auroc": 0.79}, "AUROC"),
        (RANKS, {"ap": 0.67}, "AP"),
    ],
)
def test_what_is_refused_and_why(check: Any, change: dict[str, float], fault: str) -> None:
    found = dataclasses.replace(check, **change).fault
    assert fault in found and bool(fault) == bool(found)
    assert "\n" not in str(dataclasses.replace(check, **change))


def test_painted_defects_change_an_image_in_places(bundle: Path) -> None:
    photos = list(np.random.default_rng(0).integers(90, 160, (6, 64, 96, 3), dtype=np.uint8))
    for before, after in zip(photos, painted(load_bundle(bundle), photos, 0), strict=True):
        changed = (before != after).any(2)
        assert after.shape == before.shape and not changed.all()
    assert (np.array(photos) != np.array(painted(load_bundle(bundle), photos, 0))).any()


def test_a_place_that_is_taken_is_refused(bundle: Path, tmp_path: Path, onnx_file: Exported) -> None:
    with pytest.raises(BundleError, match="overwrite"):
        export(bundle, "onnx", onnx_file.file)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="left alone"):
        export(bundle, "openvino", tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_what_cannot_be_exported_is_said_at_once(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="abacus"):
        export(bundle, "abacus")
    with pytest.raises(ConfigError, match=r"\.onnx"):
        export(bundle, "onnx", tmp_path / "part.bin")
    with pytest.raises(BundleError, match="not a bundle"):
        export(tmp_path / "none.bundle", "onnx")


def test_a_missing_package_is_one_line_that_says_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'flawmap\[export\]'"):
        export(bundle, "onnx", bundle.with_name("other.onnx"))


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_artefact_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("a.onnx", "a.xml"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BundleError, match="export it again"):
            read_about(tmp_path / name)


def test_int8_that_ranks_otherwise_is_tried_with_detection_in_full_precision(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photos_of(tmp_path / "photos", module.FEWEST)
    real, kept = module._build, tmp_path / "kept"
    kept.mkdir()
    for verdicts, expected in (([0.97], True), ([0.5, 0.97], False), ([0.5, 0.6], None)):
        tried: list[bool] = []
        answers = iter(verdicts)

        def build_one(*asked: Any, tried: list[bool] = tried) -> Path:
            tried.append(asked[-1])
            made = kept / str(asked[-1])  # each is made once: that takes seconds
            if not made.exists():
                shutil.copy(real(*asked), made)
            return Path(shutil.copy(made, asked[2].with_name(asked[2].name + ".onnx")))

        monkeypatch.setattr(module, "_build", build_one)
        monkeypatch.setattr(module, "rank", lambda *_, answers=answers: dataclasses.replace(RANKS, rank=next(answers)))
        out = tmp_path / f"{expected}.onnx"
        if expected is None:
            with pytest.raises(DisagreementError, match=r"0\.600"):
                export(bundle, "onnx", out, int8=True, images=photos)
            assert not out.exists()
        else:
            made = export(bundle, "onnx", out, int8=True, images=photos)
            assert ("detection" not in made.about["full_precision"]) is expected
            assert read_about(out)["full_precision"] == made.about["full_precision"]
        assert tried == [True, False][: len(verdicts)]


def photos_of(folder: Path, count: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(7)
    for number in range(count):
        image = np.full((70, 110, 3), random.integers(80, 170), np.uint8)
        image += random.integers(0, 20, image.shape, dtype=np.uint8)
        write_image(folder / f"{number:03d}.png", image)
    return folder
