"""The pieces of a training run, each by itself: steps, Adam, checkpoints, models on disk, what may go on, the table's row."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from stormbench.cloudmask import checkpoint, metrics, resume, summary, wireup  # noqa: E402
from stormbench.cloudmask.adam import FIRST_SCALE, Adam, values  # noqa: E402
from stormbench.cloudmask.checkpoint import State  # noqa: E402
from stormbench.cloudmask.config import TrainConfig  # noqa: E402
from stormbench.cloudmask.model import raw_variables, unet  # noqa: E402
from stormbench.cloudmask.ranks import World  # noqa: E402
from stormbench.cloudmask.split import Split  # noqa: E402
from stormbench.cloudmask.state import Position  # noqa: E402
from stormbench.cloudmask.step import Steps  # noqa: E402
from stormbench.core.errors import RunError, UserError  # noqa: E402
from stormbench.core.launch import detect  # noqa: E402

SIZE, CLIP = 16, 2
CONFIG = TrainConfig(patch_size=SIZE, clip_offset=CLIP, width=0.05, batch_size=4)


def batch(n: int, seed: int = 0, *, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch whose masks differ much between patches."""
    random = np.random.default_rng(seed)
    images = scale * random.normal(size=(n, SIZE, SIZE, 9)).astype(np.float32)
    label = random.random((n, SIZE, SIZE)) < 0.5
    valid = random.random((n, SIZE, SIZE)) < np.linspace(0.1, 1, n)[:, None, None]
    return images, (label + 2 * valid).astype(np.uint8), (np.arange(n) % 2).astype(np.uint8)


def made(config: TrainConfig = CONFIG, world: World | None = None) -> tuple[Any, Adam, Steps]:
    tf.keras.utils.set_random_seed(3)
    model = unet((None, None, 9), config.width)
    adam = Adam(raw_variables(model), scaled=config.precision == "mixed")
    return model, adam, Steps(config, world or World(), raw_variables(model), adam)


NO_FLAGS = np.zeros(2, np.float32)


def test_scores_count_the_valid_pixels_inside_the_clipped_edge() -> None:
    model, _, steps = made()
    images, bits, day = batch(3)
    vector = steps.score([(images, bits, day)])[0].numpy()
    inner = slice(CLIP, -CLIP)
    cloud = np.asarray(model(images))[:, inner, inner, 0] >= 0.5
    label, valid = (bits[:, inner, inner] & 1).astype(bool), bits[:, inner, inner] >= 2
    expected = [
        (valid & (label == truth) & (cloud == guess) & (day == time)[:, None, None]).sum()
        for time in (0, 1) for truth in (False, True) for guess in (False, True)
    ]  # fmt: skip
    assert vector[1:].tolist() == expected
    probability = np.asarray(model(images), np.float64)[:, inner, inner, 0]
    losses = -(0.5 * label * np.log(probability) + ~label * np.log(1 - probability))
    assert vector[0] == pytest.approx((losses * valid).sum(), rel=1e-4)


def test_pixels_that_do_not_count_change_nothing() -> None:
    images, bits, day = batch(2)
    other_bits = bits.copy()
    other_bits[bits < 2] ^= 1
    results = []
    for given in ((images, bits, day), (images, other_bits, day)):
        model, _, steps = made()
        steps.train([given], np.float32(0.01), NO_FLAGS)
        results.append(model.get_weights())
    for one, other in zip(results[0], results[1], strict=True):
        np.testing.assert_array_equal(one, other)


class Halves(World):
    """Two ranks one after the other in one process: what the first adds up waits for the second."""

    def __init__(self) -> None:
        super().__init__(processes=2)
        self.others: list[Any] | None = None
        self.first: list[Any] = []

    def add_up(self, tensors: list[Any]) -> list[Any]:
        if self.others is None:
            self.first = tensors
            return tensors
        return [one + other for one, other in zip(tensors, self.others, strict=True)]


def test_two_uneven_halves_give_the_update_of_the_whole_batch() -> None:
    images, bits, day = batch(4)
    model, _, steps = made(dataclasses.replace(CONFIG, batch_size=4))
    steps.train([(images, bits, day)], np.float32(0.01), NO_FLAGS)
    whole = model.get_weights()

    world = Halves()
    tf.config.run_functions_eagerly(True)
    try:
        _, _, steps = made(dataclasses.replace(CONFIG, batch_size=2), world)
        steps.train([(images[:1], bits[:1], day[:1])], np.float32(0.01), NO_FLAGS)
        world.others = world.first
        model, _, steps = made(dataclasses.replace(CONFIG, batch_size=2), world)
        told = steps.train([(images[1:], bits[1:], day[1:])], np.float32(0.01), np.array([1, 0], np.float32))[0].numpy()
    finally:
        tf.config.run_functions_eagerly(False)
    for one, other in zip(whole, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert told[metrics.SIZE :].tolist() == [1, 0]


def test_the_last_batch_may_be_shorter_and_empty_patches_weigh_nothing() -> None:
    images, bits, day = batch(2)
    filled = [np.concatenate([part, np.zeros_like(part)]) for part in (images, bits, day)]
    results = []
    for given in ((images, bits, day), tuple(filled)):
        model, _, steps = made()
        told = steps.train([given], np.float32(0.01), NO_FLAGS)[0].numpy()
        results.append((told, model.get_weights()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_batch_in_which_nothing_counts_leaves_finite_weights() -> None:
    images, bits, day = batch(2)
    model, _, steps = made()
    told = steps.train([(images, np.zeros_like(bits), day)], np.float32(0.01), NO_FLAGS)[0].numpy()
    assert not told.any()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_adam_is_that_of_keras() -> None:
    random = np.random.default_rng(0)
    start = [random.normal(size=shape).astype(np.float32) for shape in ((3, 4), (4,))]
    ours, theirs = ([tf.Variable(value) for value in start] for _ in range(2))
    adam, keras = Adam(ours), tf.keras.optimizers.Adam(0.01)
    for _ in range(5):
        gradients = [tf.constant(random.normal(size=value.shape).astype(np.float32)) for value in start]
        adam.apply(gradients, 0.01)
        keras.apply_gradients(zip(gradients, theirs, strict=True))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_adams_first_update_by_hand() -> None:
    # both moments are corrected to the gradient itself and its square, so each weight moves by the rate
    weight = tf.Variable([1.0, 1.0])
    Adam([weight]).apply([tf.constant([4.0, -0.5])], 0.1)
    np.testing.assert_allclose(weight, [0.9, 1.1], rtol=1e-6)


def test_an_overflow_skips_the_update_and_halves_the_scale() -> None:
    weight = tf.Variable([1.0])
    adam = Adam([weight], scaled=True)
    before = values(adam.variables)
    adam.apply([tf.constant([float("inf")])], 0.1)
    assert weight.numpy() == [1]
    assert float(adam.scale) == FIRST_SCALE / 2
    after = values(adam.variables)
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, True, False, True]
    adam.apply([tf.constant([1.0])], 0.1)
    assert weight.numpy() == pytest.approx([0.9])


@pytest.mark.parametrize("precision", ["bf16", "mixed"])
def test_other_precisions_train_float32_weights(precision: str) -> None:
    config = dataclasses.replace(CONFIG, precision=precision)
    model, _, steps = made(config)
    before = model.get_weights()
    told = [steps.train([batch(2, seed)], np.float32(0.001), NO_FLAGS)[0].numpy()[0] for seed in range(2)]
    assert np.isfinite(told).all()
    assert all(weight.dtype == np.float32 for weight in model.get_weights())
    assert any((one != other).any() for one, other in zip(before, model.get_weights(), strict=True))


def test_xla_computes_the_same() -> None:
    results = []
    for xla in (False, True):
        model, _, steps = made(dataclasses.replace(CONFIG, xla=xla, width=0.02))
        told = steps.train([batch(4)], np.float32(0.01), NO_FLAGS)[0].numpy()
        results.append((told, model.get_weights()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-3, atol=1)


def test_learning_rate_warms_up_to_the_scaled_one() -> None:
    from stormbench.cloudmask.trainer import Trainer

    config = TrainConfig(learning_rate=0.001, scale_lr=True, lr_warmup_steps=4)
    trainer = Trainer.__new__(Trainer)
    trainer.config, trainer.world = config, World(processes=8)
    assert [trainer.learning_rate(step) for step in (0, 1, 3, 4, 100)] == pytest.approx([0.002, 0.004, 0.008, 0.008, 0.008])
    trainer.config = TrainConfig(learning_rate=0.001)
    assert trainer.learning_rate(0) == 0.001


def state(**about: Any) -> State:
    identity = resume.identity(TrainConfig(), World(), Split(train=("a",), test=("b",), method="random", train_split=0.8, seed=1))
    position = dataclasses.asdict(Position(epoch=2, step=3, global_step=11))
    return State(
        weights=[np.arange(3.0, dtype=np.float32)], optimizer=[np.int64(7), np.zeros((2, 2), np.float32)],
        about={"identity": identity, "position": position, "log_bytes": 10, "log_open": [["run", {}]], **about},
    )  # fmt: skip


def test_a_checkpoint_comes_back_and_the_one_before_is_kept(tmp_path: Path) -> None:
    path = checkpoint.path_of(tmp_path / "checkpoints", 1)
    checkpoint.save(path, state(log_bytes=1))
    checkpoint.save(path, state(log_bytes=2))
    found = checkpoint.load(path)
    assert found.about == state(log_bytes=2).about
    np.testing.assert_array_equal(found.weights[0], [0, 1, 2])
    assert found.optimizer[0] == 7
    assert found.optimizer[1].dtype == np.float32
    assert checkpoint.load(checkpoint.previous(path)).about["log_bytes"] == 1
    assert Position(**found.about["position"]).global_step == 11


@pytest.mark.parametrize("damage", ["cut", "text", "foreign", "missing"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npz"
    checkpoint.save(path, state())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    elif damage == "text":
        path.write_text("no")
    elif damage == "foreign":
        np.savez(path, weight_0=np.zeros(3))
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"--checkpoint .*x\.npz: (not a|there is no such file)"):
        checkpoint.load(path)


def test_a_checkpoint_can_not_run_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", about=np.array([print], object))
    with pytest.raises(UserError):
        checkpoint.load(tmp_path / "x.npz")


def test_a_saved_model_is_the_same_bytes_and_loads_without_our_code(tmp_path: Path) -> None:
    weights = made()[0].get_weights()
    for name in ("one", "two"):
        model = unet((None, None, 9), CONFIG.width)
        model.set_weights(weights)
        checkpoint.save_model(tmp_path / f"{name}.keras", model)
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()
    assert zipfile.is_zipfile(tmp_path / "one.keras")
    loaded = tf.keras.models.load_model(tmp_path / "one.keras", compile=False)
    for one, other in zip(weights, loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.keras", "two.keras"]


def test_an_h5_model_of_the_public_version_loads(tmp_path: Path) -> None:
    from stormbench.cloudmask.loss import weighted_binary_cross_entropy

    model = unet((SIZE, SIZE, 9), CONFIG.width)
    model.compile(optimizer="adam", loss=weighted_binary_cross_entropy(0.5), metrics=["accuracy"])
    model.save(tmp_path / "model.h5")
    loaded = tf.keras.models.load_model(tmp_path / "model.h5", compile=False)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def identity(**changes: Any) -> dict[str, Any]:
    return {**state().about["identity"], **changes}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 0.5}, "is of a run with width 1.0, this one has 0.5"),
        ({"global_batch_size": 64}, r"global_batch_size \(ranks x --batch_size\) 32, this one has 64"),
        ({"peak_learning_rate": 0.1}, r"peak_learning_rate \(--learning_rate, with --scale_lr x ranks\) 0.001, this one has 0.1"),
        ({"split": "x"}, r"with split \(its products\)"),
        ({"wbce": 1.0}, "wbce 0.5, this one has 1.0"),
    ],
)
def test_a_run_that_goes_on_can_not_change_what_decides_its_numbers(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        resume.check("x", state(), TrainConfig(), identity(**changes), continues=True)


def test_ranks_may_change_and_the_log_says_so() -> None:
    mine = identity(number_of_ranks=4, number_of_nodes=2)
    resume.check("x", state(), TrainConfig(), mine, continues=True)
    assert resume.changes(state(), mine) == {"number_of_ranks": 4, "number_of_nodes": 2}


def test_another_run_may_start_from_a_checkpoint_with_other_options_but_not_in_the_middle_of_another_order() -> None:
    resume.check("x", state(), TrainConfig(), identity(peak_learning_rate=0.1), continues=False)
    with pytest.raises(UserError, match="global_batch_size"):
        resume.check("x", state(), TrainConfig(), identity(global_batch_size=64), continues=False)
    at_epoch = state(position=dataclasses.asdict(Position(epoch=2)))
    resume.check("x", at_epoch, TrainConfig(), identity(global_batch_size=64), continues=False)
    with pytest.raises(UserError, match="has 1 epochs behind it; raise epochs"):
        resume.check("x", at_epoch, TrainConfig(epochs=1), identity(), continues=False)


COLUMNS = (
    "index,system,num_ranks,num_gpus,total_time,first_epoch_time,second_epoch_time,first_epoch_train_time,second_epoch_train_time,"
    "first_epoch_test_time,second_epoch_test_time,imgs_per_s_second_epoch,imgs_per_s_first_epoch,train_accuracy,test_accuracy,train_loss,"
    "test_loss,batch_size,epochs,learning_rate,python,ntasks_per_node,no_cache"
)


def test_the_row_has_the_published_columns_and_counts_what_was_trained_on() -> None:
    def epoch(number: int, patches: int, train_s: float, test_s: float) -> dict[str, Any]:
        figures = {"train_accuracy": 0.8, "test_accuracy": 0.7 + 0.05 * number, "train_loss": 0.2, "test_loss": 0.3}
        return {"train_patches": patches, "train_seconds": train_s, "test_seconds": test_s, "imgs_per_s": patches / train_s,
                "end_ms": 1000 * 100 * number, **figures}  # fmt: skip

    position = Position(history=[epoch(1, 15520, 80.0, 20.0), epoch(2, 15520, 40.0, 10.0)], run_start_ms=5000)
    found = summary.row(TrainConfig(), position, World(processes=2, local_processes=2), "none", "run", "SYSTEM")
    assert ",".join(found) == COLUMNS
    assert (found["first_epoch_time"], found["second_epoch_time"], found["total_time"]) == (100, 50, 195)
    assert (found["imgs_per_s_first_epoch"], found["imgs_per_s_second_epoch"]) == (194, 388)
    assert (found["test_accuracy"], found["num_ranks"], found["ntasks_per_node"], found["no_cache"]) == (pytest.approx(0.8), 2, 2, True)


def test_a_row_of_one_epoch_leaves_the_second_empty_and_generated_data_is_marked(tmp_path: Path) -> None:
    found = summary.row(TrainConfig(), Position(), World(), "memory", "run", "SYSTEM")
    assert found["second_epoch_time"] is None
    summary.write_row(tmp_path / "train_1.csv", found, generated=True)
    header, line = (tmp_path / "train_1.csv").read_text().splitlines()
    assert header == COLUMNS + ",onednn,intra_threads,inter_threads,data"
    assert line.endswith(",generated")


def launch(**variables: str) -> Any:
    return detect(variables)


def test_one_process_needs_no_strategy_and_several_take_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    several = launch(RANK="0", WORLD_SIZE="2")
    monkeypatch.setattr(wireup.importlib.util, "find_spec", lambda name: None)
    assert wireup._chosen(TrainConfig(), launch(), 0)[0] == "none"
    assert wireup._chosen(TrainConfig(), launch(), 4)[0] == "mirrored"
    assert wireup._chosen(TrainConfig(), several, 0)[0] == "multiworker"
    monkeypatch.setattr(wireup.importlib.util, "find_spec", lambda name: object())
    assert wireup._chosen(TrainConfig(), several, 0)[0] == "horovod"


def test_an_absent_horovod_is_named_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wireup.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package horovod isn't installed; install it, or use --strategy multiworker"):
        wireup._chosen(TrainConfig(strategy="horovod"), launch(), 0)


@pytest.mark.parametrize("strategy", ["none", "mirrored"])
def test_several_processes_never_train_separate_models(strategy: str) -> None:
    with pytest.raises(UserError, match=f"--strategy {strategy}: is for one process, but torchrun started 2"):
        wireup._chosen(TrainConfig(strategy=strategy), launch(RANK="1", WORLD_SIZE="2"), 0)


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {}}', '{"cluster": {"worker": []}, "task": {"type": "worker"}}'])
def test_a_broken_tf_config_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^TF_CONFIG="):
        wireup._cluster({"TF_CONFIG": text})


def test_failures_are_told_by_the_lowest_rank_with_its_number() -> None:
    class Two(World):
        def gather(self, value: Any) -> list[Any]:
            return [None, value]

    with pytest.raises(RunError, match=r"^rank 1: x\.hdf is broken$") as caught:
        Two(processes=2).together(lambda: (_ for _ in ()).throw(RunError("x.hdf is broken")))
    assert caught.value.known_to_all
