"""The picture of an image and its two masks: what is drawn, of which product, and that generated data says so."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from stormbench.cloudmask import picture, sources
from stormbench.core.errors import RunError, UserError
from tests.cloudmask_masks import frame, product_name, write_frames, write_mask


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_frames(tmp_path / "hdf", 3)
    for number, share in enumerate((0.1, 0.4, 1.0)):
        mask_hw = np.zeros((40, 60))
        mask_hw[: round(40 * share)] = 1
        write_mask(tmp_path / "masks" / f"{product_name(number)}.h5", mask_hw)
    return tmp_path / "hdf"


def size(png: Path) -> tuple[int, int]:
    header = png.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that the texts of pictures drawn from now on will be in."""
    from matplotlib.text import Text

    texts: list[str] = []
    original = Text.draw

    def draw(self, *arguments, **options):
        texts.append(self.get_text())
        return original(self, *arguments, **options)

    monkeypatch.setattr(Text, "draw", draw)
    return texts


def test_picture_is_a_png_of_the_product_with_the_most_even_mask(data: Path, tmp_path: Path) -> None:
    record = picture.run(data, tmp_path / "masks", tmp_path / "new" / "masks.png")
    assert record["product"] == product_name(1)
    width, height = size(tmp_path / "new" / "masks.png")
    assert width > 2 * height > 400


def test_agreement_is_over_valid_pixels(data: Path, tmp_path: Path) -> None:
    valid_hw = np.zeros((40, 60), bool)
    valid_hw[:, :30] = True
    truth_hw = frame(0).bayes_hw > 0
    wrong_hw = truth_hw.copy()
    wrong_hw[:10, :30] = ~wrong_hw[:10, :30]
    wrong_hw[:, 30:] = ~wrong_hw[:, 30:]
    write_mask(tmp_path / "masks" / f"{product_name(0)}.h5", wrong_hw.astype(float), valid_hw)
    record = picture.run(data, tmp_path / "masks", tmp_path / "masks.png", product=product_name(0))
    assert record["agreement"] == pytest.approx(0.75)
    assert picture.text(record) == f"{tmp_path / 'masks.png'}: {product_name(0)}, 75.0% of the valid pixels are as in the Bayesian mask."


def test_picture_says_what_it_shows(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = shown(monkeypatch)
    picture.run(data, tmp_path / "masks", tmp_path / "day.png", product=product_name(0))
    assert product_name(0) in texts
    assert "reflectances S5, S3, S1 as red, green, blue" in texts
    assert "Bayesian mask" in texts
    assert any(text.startswith("model's mask, ") for text in texts)
    assert not any("Generated" in text for text in texts)
    picture.run(data, tmp_path / "masks", tmp_path / "night.png", product=product_name(1))
    assert "brightness temperature S8, cold is white" in texts


def test_generated_data_is_said_to_be_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_frames(tmp_path / "hdf", 1, comment="Generated data, no observation.")
    write_mask(tmp_path / "masks" / f"{product_name(0)}.h5", np.eye(40, 60))
    texts = shown(monkeypatch)
    record = picture.run(tmp_path / "hdf", tmp_path / "masks", tmp_path / "a.png")
    assert record["generated"]
    assert sources.GENERATED_NOTE in picture.text(record)
    assert any(sources.GENERATED_NOTE in text for text in texts)


def test_masks_are_painted_clear_cloudy_and_unknown() -> None:
    painted = picture.painted(np.array([[False, True, True]]), np.array([[True, True, False]]))
    np.testing.assert_allclose(painted, [[picture.CLEAR, picture.CLOUD, picture.UNKNOWN]], atol=1e-6)


def test_colours_are_stretched_from_black_to_white() -> None:
    scene = frame(0)
    _, image_hwc = picture.composite(scene)
    assert image_hwc.shape == (40, 60, 3)
    assert np.isfinite(image_hwc).all()
    assert (image_hwc.min(), image_hwc.max()) == (0, 1)
    # invalid pixels are black
    assert not image_hwc[:2, :5].any()


def test_night_shows_cold_clouds_white() -> None:
    scene = frame(1, day=False)
    scene.bts_hwc[20, 20, 1], scene.bts_hwc[20, 21, 1] = 180.0, 310.0
    _, image_hwc = picture.composite(scene)
    assert image_hwc[20, 20].tolist() == [1, 1, 1]
    assert image_hwc[20, 21].tolist() == [0, 0, 0]


def test_frame_without_any_measurement_can_be_drawn(tmp_path: Path, data: Path) -> None:
    empty = frame(0)
    empty.refs_hwc[:], empty.bts_hwc[:] = np.nan, np.nan
    picture.draw(tmp_path / "empty.png", "nothing", empty, np.ones((40, 60), bool), np.zeros((40, 60), bool), None)
    assert size(tmp_path / "empty.png")[0] > 0


def test_same_masks_give_the_same_picture(data: Path, tmp_path: Path) -> None:
    sums = []
    for name in ("a.png", "b.png"):
        picture.run(data, tmp_path / "masks", tmp_path / name)
        sums.append(zlib.crc32((tmp_path / name).read_bytes()))
    assert sums[0] == sums[1]


def test_what_can_not_be_drawn_is_told(data: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    with pytest.raises(UserError, match=r"a\.jpg: must end in \.png"):
        picture.run(data, masks, tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"--product S3A: has no mask in"):
        picture.run(data, masks, tmp_path / "a.png", product="S3A")
    with pytest.raises(UserError, match=r"has no mask <product>\.h5 of any product"):
        picture.run(data, tmp_path, tmp_path / "a.png")
    write_mask(masks / f"{product_name(0)}.h5", np.zeros((8, 8)))
    with pytest.raises(RunError, match=r"the mask has 8 x 8 pixels, its image 40 x 60"):
        picture.run(data, masks, tmp_path / "a.png", product=product_name(0))
