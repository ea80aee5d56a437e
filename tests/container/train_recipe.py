"""docker/Dockerfile.train: DeepCAM's recipe with NVIDIA's image for a default, as DeepCAM's instructions build it.

`python -m tests.container.train_recipe` renews it from docker/deepcam.Dockerfile and docker/images.toml.
"""

from __future__ import annotations

from pathlib import Path

from stormbench.job.images.recipe import read_toml

DOCKER = Path(__file__).parents[2] / "docker"
TARGET = DOCKER / "Dockerfile.train"


def expected() -> str:
    """Return what the file must hold."""
    images = read_toml(DOCKER / "images.toml")["deepcam"]
    text = (DOCKER / "deepcam.Dockerfile").read_text()
    head, _, rest = text.partition("ARG BASE=")
    assert head.startswith("# DeepCAM's images") and rest
    head = (
        "# DeepCAM on NVIDIA's PyTorch image, under the name that its instructions use; renewed from deepcam.Dockerfile, which has more\n"
        "# variants:  docker build -f docker/Dockerfile.train -t mlperf-deepcam:v1.0 .\n"
    )
    text = f"{head}ARG BASE={rest}"
    for default, own in (
        (images["cpu"]["base"], images["cuda"]["base"]),
        ("ARG VARIANT=cpu\n", "ARG VARIANT=cuda\n"),
        ("ARG DEVICES=void\n", "ARG DEVICES=all\n"),
    ):
        assert default in text
        text = text.replace(default, own)
    return text


if __name__ == "__main__":
    TARGET.write_text(expected())
