"""Asks a container registry for a manifest's digest: the registry API v2 over HTTPS, with the token that it tells to fetch.

Standard library alone, so that a login node needs no engine for it. Proxies and certificates are those of the environment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from stormbench.core.errors import RunError, UserError

LIMIT_S = 30.0
LARGEST = 4 * 2**20
"""Bytes of a manifest that registries accept."""
ACCEPTED = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""Indexes first: their digest names the image for all architectures."""
DOCKER_HUB = "docker.io"
_HOSTS = {DOCKER_HUB: "registry-1.docker.io"}
_NAME = re.compile(r"(?:(?P<host>[a-z0-9.-]+(?::\d+)?)/)?(?P<path>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*):(?P<tag>\w[\w.-]{0,127})", re.ASCII)
_MEANING = {401: "it wants a login", 403: "forbidden", 404: "no such image or tag", 407: "the proxy wants a login", 429: "asked too often"}
_PAIR = re.compile(r'(\w+)="([^"]*)"')


def parts(name: str) -> tuple[str, str, str]:
    """Return registry, repository and tag of an image's full name.

    Raises:
        UserError: it isn't one; the tag is needed.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{name}: is no image's name with registry and tag, such as docker.io/library/debian:bookworm-slim")
    host, path = match["host"] or "", match["path"]
    if host and "." not in host and ":" not in host and host != "localhost":
        # the first part of a name without a registry
        host, path = "", f"{host}/{path}"
    if host in ("", DOCKER_HUB):
        return DOCKER_HUB, path if "/" in path else f"library/{path}", match["tag"]
    return host, path, match["tag"]


def manifest_url(name: str) -> str:
    """Return the address of the manifest of an image's name."""
    host, path, tag = parts(name)
    return f"https://{_HOSTS.get(host, host)}/v2/{path}/manifests/{tag}"


def digest(name: str) -> str:
    """Return `sha256:...` of the manifest that `name` stands for now: the hash of the bytes, checked against what the registry says.

    Raises:
        RunError: the registry can't be reached, refuses, or its answer contradicts itself.
    """
    host = parts(name)[0]
    url = manifest_url(name)
    headers = {"Accept": ", ".join(ACCEPTED)}
    try:
        body, told = _get(url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise RunError(f"{url}: {_refused(error)}") from error
        authorization = _authorization(host, error.headers.get("WWW-Authenticate", ""), url)
        try:
            body, told = _get(url, headers, authorization)
        except urllib.error.HTTPError as again:
            raise RunError(f"{url}: {_refused(again)}") from again
    found = "sha256:" + hashlib.sha256(body).hexdigest()
    claimed = told.get("Docker-Content-Digest", "").strip()
    if claimed.startswith("sha256:") and claimed != found:
        raise RunError(f"{url}: its manifest hashes to {found}, the registry says {claimed}; something between changes it")
    kind = _json(url, body).get("schemaVersion")
    if kind != 2:
        raise RunError(f"{url}: answered with something that is no manifest of schema 2")
    return found


def _get(url: str, headers: dict[str, str], authorization: str = "") -> tuple[bytes, Any]:
    """Return body and headers of an answer; HTTPError passes, all else is a RunError."""
    if not url.startswith("https://"):
        raise RunError(f"{url}: not asked, as it isn't https")
    request = urllib.request.Request(url, headers={**headers, "User-Agent": "stormbench"})
    if authorization:
        # not sent on to where a registry redirects
        request.add_unredirected_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            body = answer.read(LARGEST + 1)
            if len(body) > LARGEST:
                raise RunError(f"{url}: its answer is larger than any manifest, {LARGEST} bytes")
            return body, answer.headers
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise RunError(f"{url}: not reached ({_reason(error.reason)})") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{url}: not reached ({_reason(error)})") from error


def _authorization(host: str, challenge: str, url: str) -> str:
    """Return the header that a registry's 401 asks for: a bearer's token from where it says, or a name with its password."""
    scheme, _, rest = challenge.partition(" ")
    login = _login(host)
    if scheme.lower() == "basic":
        if not login:
            raise RunError(f"{url}: wants a login; run docker login {host} first")
        return f"Basic {login}"
    values = dict(_PAIR.findall(rest))
    if scheme.lower() != "bearer" or "realm" not in values:
        raise RunError(f"{url}: refuses with 401 and tells no way to log in")
    query = urllib.parse.urlencode({name: values[name] for name in ("service", "scope") if name in values})
    realm = values["realm"] + (("&" if "?" in values["realm"] else "?") + query if query else "")
    try:
        body, _ = _get(realm, {}, f"Basic {login}" if login else "")
    except urllib.error.HTTPError as error:
        raise RunError(f"{realm}: {_refused(error)}; a private image needs docker login {host}") from error
    answer = _json(realm, body)
    token = answer.get("token") or answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise RunError(f"{realm}: answered without a token")
    return f"Bearer {token}"


def _login(host: str) -> str:
    """Return the user and password that docker login or podman login has kept for a registry, in base64; empty where there is none."""
    names = (host, f"https://{host}", "https://index.docker.io/v1/") if host == DOCKER_HUB else (host, f"https://{host}")
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    files = [Path(folder) / "config.json"]
    if os.environ.get("XDG_RUNTIME_DIR"):
        files.append(Path(os.environ["XDG_RUNTIME_DIR"]) / "containers" / "auth.json")
    for path in files:
        try:
            logins = json.loads(path.read_text(encoding="utf-8")).get("auths", {})
            found = next((logins[name]["auth"] for name in names if logins.get(name, {}).get("auth")), "")
            if found:
                base64.b64decode(found, validate=True)
                return str(found)
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return ""


def _json(url: str, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise RunError(f"{url}: its answer is no JSON; a proxy's page, perhaps") from error
    if not isinstance(value, dict):
        raise RunError(f"{url}: its answer is no JSON object")
    return value


def _refused(error: urllib.error.HTTPError) -> str:
    return f"HTTP {error.code}, {_MEANING.get(error.code, (error.reason or 'refused').lower())}"


def _reason(why: Any) -> str:
    return str(getattr(why, "strerror", None) or why).lower()
