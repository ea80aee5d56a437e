"""The MLCommons Science form's `config.yaml`: every key declared once, read with the line that each value stands on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stormbench.core.errors import UserError, did_you_mean
from stormbench.core.options import Option, option, options_of

BENCHMARK = "cloudmask"
SEED, PATCH_SIZE, TARGET = 1234, 256, 0.9
"""Fixed by the benchmark: seed and patch edge in pixels, and the accuracy on the test split that a run has to reach."""
STATUSES = ("cloud", "onprem", "preview", "research", "submission")
WHO, WHERE, IMAGES, TRAINING, MACHINE = "submission", "files", "images", "training", "machine"
SUBMISSION = "submission"
"""An older form of the file repeats who submits in a block of this name; of it the versions are taken."""
SUBMISSION_KEYS = ("benchmark", "org", "division", "version", "github_commit_version", "status", "platform")
REQUIRED = ("train_dir", "inference_dir", "output_dir")
"""Keys without which there is nothing to do; all others have the published values as defaults, or follow from these."""


def _path(text: str) -> Path:
    if not text.strip():
        raise ValueError("must not be empty")
    return Path(text.strip()).expanduser()


def _model(text: str) -> Path:
    path = _path(text)
    if path.suffix not in (".keras", ".h5"):
        raise ValueError("must end in .keras or .h5")
    return path


def _benchmark(text: str) -> str:
    if text.strip().lower() != BENCHMARK:
        raise ValueError(f"must be {BENCHMARK}, the benchmark that this command runs")
    return BENCHMARK


def _division(text: str) -> str:
    if text.strip().lower() != "open":
        raise ValueError("must be open, the only division that the Science working group takes submissions to")
    return "open"


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text.strip()


def _seed(text: str) -> int:
    return _fixed(text, SEED, "the seed that the benchmark prescribes")


def _patch_size(text: str) -> int:
    return _fixed(text, PATCH_SIZE, "the patch size that the benchmark prescribes")


def _channels(text: str) -> int:
    return _fixed(text, 9, "six reflectances and three brightness temperatures")


def _fixed(text: str, value: int, why: str) -> int:
    if text.strip() != str(value):
        raise ValueError(f"must be {value}, {why}")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScienceConfig:
    """One run of the Science form. `variable` is the key in the file; defaults are the published values."""

    benchmark: str = option(BENCHMARK, variable="benchmark", group=WHO, convert=_benchmark, help="The benchmark's name.")
    organisation: str = option("unspecified", variable="organisation", group=WHO, convert=_text, help="Who submits.")
    division: str = option("open", variable="division", group=WHO, convert=_division, help="Division of the submission.")
    status: str = option("research", variable="status", group=WHO, choices=STATUSES, help="Status of the submission.")
    platform: str = option("", variable="platform", group=WHO, convert=_text, help="The machine's name; the host's by default.")
    accelerators_per_node: int = option(
        1, variable="accelerators_per_node", group=WHO, minimum=0, help="Accelerators that a node of the machine has."
    )
    train_dir: Path = option(Path(), variable="train_dir", group=WHERE, convert=_path, help="Folder with the products to train on.")
    inference_dir: Path = option(Path(), variable="inference_dir", group=WHERE, convert=_path, help="Folder with the products to predict.")
    model_file: Path = option(
        Path("cloudModel.keras"), variable="model_file", group=WHERE, convert=_model, help="Where the trained model goes: .keras or .h5."
    )
    output_dir: Path = option(Path(), variable="output_dir", group=WHERE, convert=_path, help="Folder for masks and run folders.")
    log_file: Path = option(
        Path("cloudMask_Log"), variable="log_file", group=WHERE, convert=_path, help="Text file that gains two lines of times a run."
    )
    mlperf_logfile: Path = option(
        Path("mlperf_cloudmask.log"), variable="mlperf_logfile", group=WHERE, convert=_path, help="The MLPerf log of the run."
    )
    patch_size: int = option(PATCH_SIZE, variable="PATCH_SIZE", group=IMAGES, unit="pixels", convert=_patch_size, help="Edge of a patch.")
    image_h: int = option(1200, variable="IMAGE_H", group=IMAGES, unit="pixels", minimum=PATCH_SIZE, help="Rows of an image.")
    image_w: int = option(1500, variable="IMAGE_W", group=IMAGES, unit="pixels", minimum=PATCH_SIZE, help="Columns of an image.")
    n_channels: int = option(9, variable="N_CHANNELS", group=IMAGES, convert=_channels, help="Channels of an image.")
    min_sst: float = option(
        273.15, variable="MIN_SST", group=IMAGES, unit="K", minimum=273.15, help="Sea surface temperatures compared are above it."
    )
    crop_size: int = option(
        80, variable="CROP_SIZE", group=IMAGES, unit="pixels", minimum=0, below=PATCH_SIZE,
        help="Overlap of patches in the published inference; ours takes whole frames, which need none.",
    )
    seed: int = option(SEED, variable="seed", group=TRAINING, convert=_seed, help="Decides the initial weights, the split and the order.")
    learning_rate: float = option(0.001, variable="learning_rate", group=TRAINING, above=0, help="Learning rate of Adam.")
    epochs: int = option(30, variable="epochs", group=TRAINING, unit="epochs", minimum=1, help="Epochs to train.")
    batch_size: int = option(32, variable="batch_size", group=TRAINING, unit="patches per rank", minimum=1, help="Local batch.")
    train_split: float = option(0.8, variable="train_split", group=TRAINING, above=0, below=1, help="Share of the products to train on.")
    clip_offset: int = option(
        15, variable="clip_offset", group=TRAINING, unit="pixels", minimum=0, below=PATCH_SIZE // 2,
        help="Pixels at each edge of a patch that the loss leaves out.",
    )
    no_cache: bool = option(False, variable="no_cache", group=TRAINING, help="Reads the patches anew in each epoch.")
    nodes: int = option(1, variable="nodes", group=MACHINE, minimum=1, help="Nodes of the job; must be those that it runs on.")
    gpu: int = option(
        1, variable="gpu", group=MACHINE, minimum=0, help="GPUs of all nodes, one a rank, which must be those of the job; 0 without any."
    )

    version: str | None = None
    """`version` of a `submission` block, where there is one."""
    commit: str | None = None
    """`github_commit_version` of a `submission` block, where there is one."""


def read(path: Path) -> tuple[ScienceConfig, dict[str, str]]:
    """Return the config in a YAML file, and for each key in it where it stands, such as `config.yaml:12: epochs: 30`.

    Raises:
        UserError: no such file, no mapping of keys to single values, an unknown, repeated or missing key, or a bad value.
    """
    known = {spec.variable: spec for spec in options_of(ScienceConfig)}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for line, key, node in _entries(path):
        where = f"{path}:{line}: {key}"
        if key in origins:
            raise UserError(f"{where}: is given twice, first at {origins[key]}; keep one of them")
        if key == SUBMISSION:
            origins[key] = where
            values |= _submission(path, node)
            continue
        spec = known.get(key)
        if spec is None:
            raise UserError(f"{where}: is not a key of this benchmark{_nearest(key, [*known, SUBMISSION])}")
        values[spec.name], origins[key] = _value(spec, node, where)
    missing = [key for key in REQUIRED if key not in origins]
    if missing:
        raise UserError(f"{path}: has no {', '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}")
    # what the file leaves out lies in the output folder
    for name in ("model_file", "log_file", "mlperf_logfile"):
        if name not in origins:
            values[name] = values["output_dir"] / next(spec.default for spec in known.values() if spec.name == name)
    return ScienceConfig(**values), origins


def _entries(path: Path) -> list[tuple[int, str, Any]]:
    """Return line, key and node of each entry of the file's mapping, in order."""
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"--config {path}: can't be read ({why}); give the benchmark's config.yaml") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: is not a text file ({error.reason}); give the benchmark's config.yaml") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        why = getattr(error, "problem", None) or "it can't be parsed"
        raise UserError(f"{path}{line}: is not YAML ({why}); correct this line") from error
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: holds no `key: value` lines; give the benchmark's config.yaml")
    return _mapping(path, root)


def _mapping(path: Path, root: Any) -> list[tuple[int, str, Any]]:
    import yaml

    entries = []
    for key, node in root.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{path}:{line}: a key must be one word")
        entries.append((line, key.value, node))
    return entries


def _nearest(key: str, known: Iterable[str]) -> str:
    """Return a suggestion for an unknown key; some of the known ones are in capitals, which must not hide them."""
    by_name = {name.lower(): name for name in known}
    near = did_you_mean(key.lower(), by_name)
    return next((f"; did you mean {name}?" for lower, name in by_name.items() if near == f"; did you mean {lower}?"), "")


def _value(spec: Option, node: Any, where: str) -> tuple[Any, str]:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{where}: holds several values, must be one")
    if node.tag == "tag:yaml.org,2002:null":
        raise UserError(f"{where}: has no value; give one, or remove the line")
    origin = f"{where}: {node.value}"
    return spec.parse(node.value, origin), origin


def _submission(path: Path, node: Any) -> dict[str, str]:
    """Return the versions in a `submission` block; its other keys repeat what stands outside it."""
    import yaml

    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{line}: {SUBMISSION}: must be a block of {', '.join(SUBMISSION_KEYS)}")
    found: dict[str, str] = {}
    for entry_line, key, value in _mapping(path, node):
        if key not in SUBMISSION_KEYS:
            raise UserError(f"{path}:{entry_line}: {SUBMISSION}.{key}: is not a key of this benchmark{did_you_mean(key, SUBMISSION_KEYS)}")
        if not isinstance(value, yaml.ScalarNode):
            raise UserError(f"{path}:{entry_line}: {SUBMISSION}.{key}: holds several values, must be one")
        if key in ("version", "github_commit_version") and value.value.strip():
            found["version" if key == "version" else "commit"] = value.value.strip()
    return found
