"""What a site adds to a build: proxy, certificates, pip's settings, a package mirror and a folder of wheels.

All but the wheels pass as secrets, which an engine mounts into the steps that need them and into no layer; the wheels are a further
context, mounted in the same way.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from stormbench.core.errors import UserError
from stormbench.job.images.recipe import Image

PROXY_NAMES = ("http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "all_proxy")
SUITES = {"2.36": ("bookworm", "main"), "2.39": ("noble", "main universe")}
"""The C library of an image tells its distribution: the suite and the components of a mirror's address."""
WHEELS = ("*.whl", "*.tar.gz", "*.zip")
_PEM = "-----BEGIN CERTIFICATE-----"
_PROXY_LINE = re.compile(r"[A-Za-z_]+=\S*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """What of a site a build gets; a path or a text of None is not passed at all."""

    pip_conf: Path | None = None
    ca: Path | None = None
    proxy: Path | None = None
    proxy_text: str | None = None
    """Lines NAME=VALUE from the environment, where no file was given."""
    apt: Path | None = None
    apt_text: str | None = None
    wheelhouse: Path | None = None

    @property
    def given(self) -> list[str]:
        """The ids of the secrets that a build gets."""
        named = {"pipconf": self.pip_conf, "ca": self.ca, "proxy": self.proxy or self.proxy_text, "apt": self.apt or self.apt_text}
        return [name for name, value in named.items() if value]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a site."""
    group = parser.add_argument_group("site", "Reach the build as secrets, or as a context, and stay out of the image.")
    group.add_argument("--pip_conf", metavar="FILE", help="pip's settings, such as a site's index")
    group.add_argument("--ca", metavar="FILE", help="certificates in PEM form that the site's servers are signed with")
    group.add_argument(
        "--proxy", metavar="FILE", help="lines such as https_proxy=http://HOST:PORT, or `none`; by default the environment's"
    )
    group.add_argument("--apt_mirror", metavar="URL|FILE", help="the address of a Debian or Ubuntu mirror, or a sources.list")
    group.add_argument("--wheelhouse", metavar="DIR", help="a folder of wheels, used before any index")


def site_of(arguments: argparse.Namespace, image: Image, environ: Mapping[str, str]) -> Site:
    """Return what the options and the environment give.

    Raises:
        UserError: a file is absent or isn't what it should be.
    """
    proxy = None if arguments.proxy in (None, "none") else _file("--proxy", arguments.proxy)
    if proxy is not None:
        _check_proxy(proxy)
    url = arguments.apt_mirror or ""
    apt = None if not url or "://" in url else _file("--apt_mirror", url)
    return Site(
        pip_conf=_pip_conf(arguments.pip_conf),
        ca=_certificates(arguments.ca),
        proxy=proxy,
        proxy_text=_proxies(environ) if arguments.proxy is None else None,
        apt=apt,
        apt_text=_mirror(url, image) if "://" in url else None,
        wheelhouse=_wheelhouse(arguments.wheelhouse),
    )


@contextlib.contextmanager
def secret_files(site: Site, *, dry_run: bool) -> Iterator[dict[str, Path]]:
    """Yield the file of each secret by its id; texts are written to files that only this user can read, and removed at the end.

    A dry run writes nothing, and names the files that a build would make.
    """
    files = {name: path for name, path in (("pipconf", site.pip_conf), ("ca", site.ca), ("proxy", site.proxy), ("apt", site.apt)) if path}
    texts = {name: text for name, text in (("proxy", site.proxy_text), ("apt", site.apt_text)) if text}
    if dry_run:
        yield files | {name: Path(tempfile.gettempdir()) / "stormbench-secrets" / name for name in texts}
        return
    folder = Path(tempfile.mkdtemp(prefix="stormbench-secrets-")) if texts else None
    try:
        for name, text in texts.items():
            assert folder is not None
            with open(folder / name, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
                stream.write(text)
        yield files | {name: folder / name for name in texts if folder is not None}
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _file(option: str, text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise UserError(f"{option} {text}: no such file; give the file that holds the site's settings")
    if "," in str(path.absolute()):
        raise UserError(f"{option} {text}: engines take a comma for the end of the path; copy the file to a path without one")
    return path.absolute()


def _pip_conf(text: str | None) -> Path | None:
    if text is None:
        return None
    path = _file("--pip_conf", text)
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"), str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UserError(f"--pip_conf {text}: is no settings file of pip ({str(error).splitlines()[0]})") from error
    return path


def _certificates(text: str | None) -> Path | None:
    if text is None:
        return None
    path = _file("--ca", text)
    if _PEM not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"--ca {text}: holds no certificate in PEM form ({_PEM}); convert it with openssl x509 -inform der")
    return path


def _check_proxy(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name = line.partition("=")[0].lower()
        if line.strip() and not line.startswith("#") and (not _PROXY_LINE.fullmatch(line) or name not in PROXY_NAMES):
            raise UserError(f"{path}:{number}: {line!r} must be NAME=VALUE without blanks or quotes, NAME one of {', '.join(PROXY_NAMES)}")


def _proxies(environ: Mapping[str, str]) -> str | None:
    """Return the environment's proxies as lines, each in the small letters that all programs read."""
    found = {name: environ.get(name) or environ.get(name.upper()) or "" for name in PROXY_NAMES}
    lines = [f"{name}={value.strip()}\n" for name, value in found.items() if value.strip()]
    return "".join(lines) if any(not line.startswith("no_proxy") for line in lines) else None


def _mirror(url: str, image: Image) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or any(letter.isspace() for letter in url):
        raise UserError(f"--apt_mirror {url}: must be a file, or an http or https address such as https://mirror.example.org/debian")
    if image.glibc not in SUITES:
        raise UserError(f"--apt_mirror {url}: the distribution of {image.base} isn't known; give a sources.list for it")
    suite, components = SUITES[image.glibc]
    return f"deb {url.rstrip('/')} {suite} {components}\n"


def _wheelhouse(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text).expanduser()
    if not path.is_dir():
        raise UserError(f"--wheelhouse {text}: no such folder")
    if not any(next(path.glob(pattern), None) for pattern in WHEELS):
        fill = "pip download -d DIR -r docker/requirements/IMAGE-VARIANT.txt -c docker/constraints/IMAGE-VARIANT.txt"
        raise UserError(f"--wheelhouse {text}: holds no wheel; fill it with: {fill}")
    return path.absolute()
