"""`stormbench images lock`: digests from a real HTTPS registry with tokens; what can't be resolved stays as it was, and is told."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stormbench.core.errors import UserError
from stormbench.job.images import lock, recipe, registry
from tests.kits import Call, kit_with

ROOT = Path(__file__).parents[2]
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
OLD = "sha256:" + "1" * 64


class Registry(http.server.BaseHTTPRequestHandler):
    """Gives manifests for a token, and tokens, for private images only to who logs in."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, self.headers.get("Authorization", "")))
        host = f"localhost:{server.server_port}"
        if self.path.startswith("/token"):
            private = "private" in self.path
            right = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:word").decode()
            self.answer(401 if private and not right else 200, json.dumps({"token": "T0KEN"}).encode())
            return
        if self.headers.get("Authorization") != "Bearer T0KEN":
            scope = f"repository:{self.path.split('/manifests/')[0].removeprefix('/v2/')}:pull"
            self.answer(401, b"{}", {"WWW-Authenticate": f'Bearer realm="https://{host}/token",service="{host}",scope="{scope}"'})
            return
        tag = self.path.rpartition("/")[2]
        body = {"page": b"<html>log in</html>", "schema1": b'{"schemaVersion": 1}'}.get(tag, MANIFEST)
        claimed = OLD if tag == "changed" else "sha256:" + hashlib.sha256(body).hexdigest()
        index = "application/vnd.oci.image.index.v1+json" in self.headers.get("Accept", "")
        self.answer(404 if tag == "gone" else 429 if tag == "often" else 200 if index else 406, body, {"Docker-Content-Digest": claimed})

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the registry's certificate, is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture
def server(certificate: Path) -> Iterator[Any]:
    found: Any = http.server.ThreadingHTTPServer(("localhost", 0), Registry)
    found.asked = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    found.socket = context.wrap_socket(found.socket, server_side=True)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join(timeout=10)


def renewed(
    images: Call, tmp_path: Path, certificate: Path, base: str, held: str = "", **environ: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Renew the lock of a kit with this base; return exit code, the row that was told, and the lock."""
    kit = kit_with(tmp_path, f'base = "{base}"')
    if held:
        lock.write_lock(kit, {base: held})
    own = {"SSL_CERT_FILE": str(certificate / "cert.pem"), "HOME": str(tmp_path), "no_proxy": "*", **environ}
    done = images("lock", "--kit", kit, "--json", **own)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)[0], lock.read_lock(kit)


def test_the_digest_is_the_hash_of_what_the_registry_gives_for_a_token(
    images: Call, tmp_path: Path, certificate: Path, server: Any
) -> None:
    base = f"localhost:{server.server_port}/library/debian:1-slim"
    code, row, held = renewed(images, tmp_path, certificate, base)
    assert (code, row["state"], held) == (0, "new", {base: DIGEST})
    paths = [path for path, _ in server.asked]
    assert paths[0] == paths[2] == "/v2/library/debian/manifests/1-slim"
    assert "scope=repository%3Alibrary%2Fdebian%3Apull" in paths[1]
    assert f"service=localhost%3A{server.server_port}" in paths[1]


def test_a_login_that_docker_has_kept_is_used_for_a_private_image(images: Call, tmp_path: Path, certificate: Path, server: Any) -> None:
    base = f"localhost:{server.server_port}/private/image:1"
    code, row, _ = renewed(images, tmp_path, certificate, base)
    assert (code, "a private image needs docker login" in row["told"]) == (1, True)
    (tmp_path / ".docker").mkdir()
    auth = base64.b64encode(b"me:word").decode()
    (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {f"localhost:{server.server_port}": {"auth": auth}}}))
    assert renewed(images, tmp_path, certificate, base)[0] == 0
    # it goes to the token's server, never with the manifest's request
    assert all(not given.startswith("Basic") for path, given in server.asked if path.startswith("/v2/"))


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [
        ("gone", "HTTP 404, no such image or tag"),
        ("often", "HTTP 429, asked too often"),
        ("changed", "the registry says"),
        ("page", "its answer is no JSON; a proxy's page, perhaps"),
        ("schema1", "no manifest of schema 2"),
    ],
)
def test_what_is_no_answer_keeps_the_old_digest(
    images: Call, tmp_path: Path, certificate: Path, server: Any, tag: str, sentence: str
) -> None:
    base = f"localhost:{server.server_port}/library/debian:{tag}"
    code, row, held = renewed(images, tmp_path, certificate, base, OLD)
    assert (code, held) == (1, {base: OLD})
    assert row["state"] == "not resolved"
    assert row["told"].startswith("the old one is kept: ")
    assert sentence in row["told"]


def test_an_unknown_certificate_is_not_trusted(images: Call, tmp_path: Path, certificate: Path, server: Any) -> None:
    code, row, held = renewed(images, tmp_path, certificate, f"localhost:{server.server_port}/debian:1", SSL_CERT_FILE="/dev/null")
    assert (code, set(held.values())) == (1, {""})
    assert "certificate verify failed" in row["told"]


def test_offline_says_so_and_invents_nothing(images: Call, tmp_path: Path, certificate: Path) -> None:
    base = "localhost:1/library/debian:1"
    code, row, held = renewed(images, tmp_path, certificate, base)
    assert (code, held, row["digest"]) == (1, {base: ""}, "")
    assert row["state"] == "not resolved"
    assert "https://localhost:1/v2/library/debian/manifests/1: not reached (connection refused)" in row["told"]


def test_skopeo_serves_where_https_does_not(images: Call, tmp_path: Path, certificate: Path) -> None:
    program = tmp_path / "bin" / "skopeo"
    script = f"[ \"$*\" = 'inspect --raw docker://localhost:1/library/debian:1' ] && printf %s '{MANIFEST.decode()}'"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    code, row, _ = renewed(images, tmp_path, certificate, "localhost:1/library/debian:1")
    assert (code, row["digest"]) == (0, DIGEST)


def test_a_check_asks_nobody(images: Call, tmp_path: Path) -> None:
    kit = kit_with(tmp_path, 'base = "localhost:1/library/debian:1"')
    rows = json.loads(images("lock", "--kit", kit, "--check", "--json").stdout)
    assert rows[0]["told"].startswith("not in the lock")
    lock.write_lock(kit, {"localhost:1/library/debian:1": DIGEST})
    assert images("lock", "--kit", kit, "--check").returncode == 0
    lock.write_lock(kit, {"localhost:1/library/debian:1": DIGEST, "other:1": DIGEST})
    done = images("lock", "--kit", kit, "--check", "--json")
    assert (done.returncode, json.loads(done.stdout)[1]["told"]) == (1, "no image has this base any more")
    assert "GET https://localhost:1/v2/library/debian/manifests/1" in images("lock", "--kit", kit, "--dry-run").stdout


@pytest.mark.parametrize("text", ['[digests]\n"a:1" = "sha256:123"\n', "digests = 3\n", '[digests]\n"a:1" = 3\n', "no"])
def test_a_damaged_lock_is_told(tmp_path: Path, text: str) -> None:
    kit = kit_with(tmp_path)
    (kit / "docker/images.lock").write_text(text)
    with pytest.raises(UserError, match=r"images\.lock"):
        lock.read_lock(kit)


def test_the_kits_lock_has_just_the_bases_of_its_images() -> None:
    held = lock.read_lock(ROOT)
    images = recipe.read_images(ROOT)
    compilers = {value for image in images for name, value in image.arguments.items() if name == "TOOLKIT"}
    assert list(held) == list(dict.fromkeys(base for image in images for base in image.foreign_images))
    assert set(held) == {image.base for image in images} | compilers
    assert len(compilers) == 1


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("debian:12", "https://registry-1.docker.io/v2/library/debian/manifests/12"),
        ("rocm/pytorch:a_b", "https://registry-1.docker.io/v2/rocm/pytorch/manifests/a_b"),
        ("docker.io/debian:12", "https://registry-1.docker.io/v2/library/debian/manifests/12"),
        ("nvcr.io/nvidia/pytorch:26.07-py3", "https://nvcr.io/v2/nvidia/pytorch/manifests/26.07-py3"),
        ("localhost/x:1", "https://localhost/v2/x/manifests/1"),
    ],
)
def test_names_lead_to_their_registry(name: str, url: str) -> None:
    assert registry.manifest_url(name) == url


@pytest.mark.parametrize("name", ["debian", "Debian:1", "debian@sha256:1", "https://debian:1", "debian:1 2", ""])
def test_a_name_without_a_tag_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is no image's name with registry and tag"):
        registry.parts(name)
