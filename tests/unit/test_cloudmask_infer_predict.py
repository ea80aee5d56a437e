"""The network on frames: windows and whole frames give one mask, models of all kinds load, and memory decides how it is done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from stormbench.cloudmask import predict, tiling
from stormbench.cloudmask.model import unet
from stormbench.core.errors import RunError, UserError
from tests.cloudmask_masks import random_weights, write_model


@pytest.fixture(scope="module")
def weights() -> list[np.ndarray]:
    return random_weights()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "any_size.keras")
    write_model(folder / "patches.keras", size=32)
    write_model(folder / "public.h5", size=32)
    return folder


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(height, width, 9)).astype(np.float32)


@pytest.mark.parametrize(("height", "width", "edge"), [(64, 64, 24), (150, 203, 48), (61, 130, 40), (5, 7, 8), (1, 300, 96)])
def test_windows_give_the_mask_of_the_whole_frame(weights: list[np.ndarray], height: int, width: int, edge: int) -> None:
    whole_hw = predict.Predictor(weights, edge=None)(image(height, width))
    tiled_hw = predict.Predictor(weights, edge=edge)(image(height, width))
    assert whole_hw.shape == (height, width)
    assert whole_hw.std() > 0.01
    np.testing.assert_allclose(tiled_hw, whole_hw, rtol=0, atol=1e-5)


def test_smaller_halo_would_not_give_the_same_mask(weights: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    whole_hw = predict.Predictor(weights, edge=None)(image(160, 160))
    monkeypatch.setattr(tiling, "HALO", 32)
    tiled_hw = predict.Predictor(weights, edge=48)(image(160, 160))
    assert np.abs(tiled_hw - whole_hw).max() > 1e-5


def test_network_looks_no_further_than_its_reach(weights: list[np.ndarray]) -> None:
    base, changed = image(128, 256), image(128, 256)
    # the first column of a block of 8 is what pixels on its left see last
    changed[:, 128:] += 1
    apply = predict.Predictor(weights, edge=None)
    columns = np.flatnonzero((apply(base) != apply(changed)).any(0))
    assert 128 - tiling.REACH <= columns.min() <= 128 - 44


def test_mask_is_that_of_the_keras_model_on_the_padded_frame(models: Path, weights: list[np.ndarray]) -> None:
    frame_hwc = image(45, 70)
    padded_hwc = np.zeros((48, 72, 9), np.float32)
    padded_hwc[:45, :70] = frame_hwc
    keras = tf.keras.models.load_model(models / "any_size.keras", compile=False)
    expected_hw = np.asarray(keras(padded_hwc[None], training=False))[0, :45, :70, 0]
    np.testing.assert_allclose(predict.Predictor(weights)(frame_hwc), expected_hw, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["any_size.keras", "patches.keras", "public.h5"])
def test_models_load_without_their_loss(models: Path, weights: list[np.ndarray], name: str) -> None:
    for found, expected in zip(predict.load(models / name), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_products_of_ten_bits_are_off_before_networks_are_compared(models: Path) -> None:
    tf.config.experimental.enable_tensor_float_32_execution(True)
    predict.load(models / "any_size.keras")
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_public_file_of_keras_2_loads(models: Path, weights: list[np.ndarray], tmp_path: Path) -> None:
    # Keras 2 wrote the shapes of layers under other names, and no registered names of classes
    path = tmp_path / "keras2.h5"
    path.write_bytes((models / "public.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        # an installed Keras 2 has written one itself
        if not str(file.attrs["keras_version"]).startswith("2."):
            config = json.loads(file.attrs["model_config"])
            file.attrs["model_config"] = json.dumps(as_keras_2(config))
            file.attrs["keras_version"] = "2.9.0"
    for found, expected in zip(predict.load(path), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


def as_keras_2(config: dict) -> dict:
    """Return a model's config in the words of Keras 2: plain names of classes, and inputs as lists of layers."""
    layers = []
    for layer in config["config"]["layers"]:
        own = {name: value for name, value in layer["config"].items() if name not in ("dtype", "optional", "ragged")}
        own["dtype"] = "float32"
        if "batch_shape" in own:
            own["batch_input_shape"] = own.pop("batch_shape")
        for part in ("kernel_initializer", "bias_initializer"):
            if part in own:
                own[part] = {"class_name": own[part]["class_name"], "config": own[part]["config"]}
        inbound = []
        for node in layer["inbound_nodes"]:
            given = node["args"][0] if isinstance(node, dict) else []
            tensors = given if isinstance(given, list) else [given]
            inbound.append([[*tensor["config"]["keras_history"], {}] for tensor in tensors])
        layers.append({"class_name": layer["class_name"], "config": own, "name": layer["name"], "inbound_nodes": inbound})
    ends = {name: [[layers[index]["name"], 0, 0]] for name, index in (("input_layers", 0), ("output_layers", -1))}
    return {"class_name": "Functional", "config": {"name": "model", "layers": layers, **ends}}


def test_weights_alone_do_not_make_it_our_network(tmp_path: Path) -> None:
    # weights of the same shapes, but ReLUs that let some of what is negative through
    model = unet((32, 32, 9), 0.25)
    config = model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "ReLU":
            layer["config"]["negative_slope"] = 0.3
    leaky = tf.keras.Model.from_config(config)
    leaky.set_weights(random_weights())
    leaky.save(tmp_path / "leaky.keras")
    with pytest.raises(UserError, match="is another network: with the same weights"):
        predict.load(tmp_path / "leaky.keras")


@pytest.mark.parametrize("channels", [9, 3])
def test_another_network_is_refused_with_its_parameters(tmp_path: Path, channels: int) -> None:
    given = tf.keras.Input((32, 32, channels))
    tf.keras.Model(given, tf.keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(given)).save(tmp_path / "small.keras")
    with pytest.raises(UserError, match=rf"of {9 * channels + 1} parameters, not the U-Net for 9 channels"):
        predict.load(tmp_path / "small.keras")


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def text(path: Path) -> None:
    path.write_text("no model")


@pytest.mark.parametrize("damage", [cut_off, text])
@pytest.mark.parametrize("name", ["any_size.keras", "public.h5"])
def test_damaged_model_is_named(models: Path, tmp_path: Path, damage, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((models / name).read_bytes())
    damage(path)
    with pytest.raises(RunError, match=r"can't be loaded by Keras") as caught:
        predict.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_model_and_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.keras: can't be read \(no such file"):
        predict.digest(tmp_path / "nothing.keras")
    with pytest.raises(UserError, match=r"model\.pt: must end in one of \.keras, \.h5"):
        predict.digest(tmp_path / "model.pt")


def test_digest_tells_models_apart(models: Path) -> None:
    assert predict.digest(models / "public.h5") != predict.digest(models / "patches.keras")
    assert predict.digest(models / "public.h5") == predict.digest(models / "public.h5")


@pytest.mark.parametrize(("text", "edge"), [("auto", predict.AUTO), ("whole", None), ("512", 512)])
def test_tile_is_understood(text: str, edge: int | str | None) -> None:
    assert predict.parse_tile(text) == edge


@pytest.mark.parametrize("text", ["", "-8", "0", "100", "1e3", "big", "²"])
def test_wrong_tile_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--tile .*multiple of 8"):
        predict.parse_tile(text)


@pytest.mark.parametrize(
    ("gibibytes", "ranks", "method"),
    [(16, 1, "whole frames"), (None, 1, "whole frames"), (16, 16, "windows of 512"), (1, 1, "windows of 512"), (0.01, 1, "windows of 64")],
)
def test_memory_decides_whether_a_full_frame_is_taken_whole(
    weights: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, gibibytes: float | None, ranks: int, method: str
) -> None:
    monkeypatch.setattr(predict, "available_bytes", lambda: None if gibibytes is None else int(gibibytes * 2**30))
    apply = predict.Predictor(weights, ranks=ranks)
    monkeypatch.setattr(apply, "_network", lambda image_hwc: np.zeros(image_hwc.shape[:2], np.float32))
    apply(np.zeros((1200, 1500, 9), np.float32))
    assert apply.method.startswith(method)


def test_whole_frames_where_memory_is_short_are_taken_as_asked_with_a_word(
    weights: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict, "available_bytes", lambda: 2**30)
    apply = predict.Predictor(weights, edge=None)
    monkeypatch.setattr(apply, "_network", lambda image_hwc: np.zeros(image_hwc.shape[:2], np.float32))
    for _ in range(2):
        apply(np.zeros((1200, 1500, 9), np.float32))
    assert apply.method == "whole frames"
    assert capsys.readouterr().err.count("--tile whole: a frame takes about 2.4 GiB, more than is safe here; --tile auto") == 1


def test_larger_frame_than_those_before_is_decided_about_anew(weights: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "available_bytes", lambda: 2**30)
    apply = predict.Predictor(weights)
    monkeypatch.setattr(apply, "_network", lambda image_hwc: np.zeros(image_hwc.shape[:2], np.float32))
    for size, method in ((64, "whole frames"), (1200, "windows of 512"), (64, "windows of 512")):
        apply(np.zeros((size, size, 9), np.float32))
        assert apply.method.startswith(method)


def test_memory_that_runs_out_leads_to_smaller_windows(weights: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    apply = predict.Predictor(weights, gpu=True)
    monkeypatch.setattr(apply, "_network", limited(300 * 300))
    assert apply(np.zeros((900, 900, 9), np.float32)).shape == (900, 900)
    assert apply.method.startswith("windows of 128")


def test_memory_that_runs_out_for_what_was_asked_for_is_told(weights: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    for edge, words in ((None, "whole frames"), (512, "windows of 512 pixels")):
        apply = predict.Predictor(weights, edge=edge)
        monkeypatch.setattr(apply, "_network", limited(300 * 300))
        with pytest.raises(RunError, match=f"memory ran out for {words}"):
            apply(np.zeros((900, 900, 9), np.float32))


def limited(pixels: int):
    def network(image_hwc: np.ndarray) -> np.ndarray:
        if image_hwc.shape[0] * image_hwc.shape[1] > pixels:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return np.zeros(image_hwc.shape[:2], np.float32)

    return network
