"""A site's mirrors: checked when they are read, probed, passed over where they are dead, and gone from the image."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fault_proxy import Fault, FaultProxy, fault_proxy, script
from tiny_project import DOCKERFILE, exported, harness, main_file

from harness.image.apt_relay import ARCHIVES, apt_relay
from harness.image.base import base_source
from harness.image.contents import read_lock, read_sbom
from harness.image.engine import find_engine
from harness.image.local_registry import PROGRAMS
from harness.image.machine_apt import machine_archives
from harness.image.process import run_command
from harness.mirrors import probe_mirrors

DEAD = "http://127.0.0.1:1"
SITE = 'name = "{name}"\n[title]\nen = "A"\nzh = "甲"\n{text}\n'


def write_site(project: Path, text: str, name: str = "near") -> None:
    (project / f"sites/{name}.toml").write_text(SITE.format(name=name, text=text), encoding="utf-8")


@contextlib.contextmanager
def files_served(folder: Path) -> Iterator[str]:
    """A plain web server for a folder; yields its host:port."""
    handler = functools.partial(_QuietFiles, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


class _QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('pip = ["pypi.example/simple"]', "key 'mirrors.pip': 'pypi.example/simple' is no address; valid: http://host/path"),
        ('registry = ["https://a b"]', "key 'mirrors.registry': 'https://a b' is no registry; valid: host, host:port,"),
        ('apt = ["http://a.example", "http://a.example"]', "key 'mirrors.apt': 'http://a.example' is there twice"),
        ('npm = ["http://a.example"]', "unknown key 'mirrors.npm'; valid keys here: apt, conda, huggingface,"),
    ],
)  # fmt: skip
def test_a_wrong_mirror_is_refused_with_file_key_and_what_is_valid(project: Path, text: str, error: str) -> None:
    write_site(project, f"[mirrors]\n{text}")
    done = harness(project, "doctor", "--site", "near")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {project}/sites/near.toml: {error}")


def test_doctor_shows_each_mirror(project: Path, tmp_path: Path) -> None:
    with files_served(tmp_path) as first, files_served(tmp_path) as second:
        hosts = f'["{DEAD}", "http://{first}", "http://{second}"]'
        write_site(project, f'[mirrors]\npip = {hosts}\nhuggingface = ["{DEAD}"]')
        lines = harness(project, "doctor", "--site", "near").stdout.splitlines()
    pip = [line for line in lines if line[5:].startswith("pip ")]
    assert pip[0].startswith(f"note pip          {DEAD} is dead (connection refused); the next one is used")
    assert pip[1].startswith(f"ok   pip          http://{first} answers in ")
    assert pip[1].endswith("ms, chosen")
    assert pip[2].startswith(f"ok   pip          http://{second} answers in ")
    assert pip[2].endswith("ms")
    (hub,) = [line for line in lines if "huggingface" in line]
    assert "this machine's own configuration is used" in hub


def test_every_mirror_that_does_not_answer_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "v2").mkdir()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,  # accepts, and never answers
        files_served(tmp_path) as one,
        files_served(tmp_path) as two,
        fault_proxy(one, lambda *_: Fault(status=503)) as ill,
    ):
        mute = f"http://127.0.0.1:{silent.getsockname()[1]}"
        addresses = [mute, DEAD, f"http://{ill.host}", f"http://{one}/nothing-here", f"http://{one}", f"http://{two}"]
        answers = probe_mirrors({"huggingface": addresses, "registry": [two]}, 0.5)
        problems = [answer.problem for answer in answers]
        assert problems[0].startswith("no answer")
        assert problems[1:] == ["connection refused", "HTTP 503", "HTTP 404", "", "", ""]


def test_apt_gets_its_files_from_the_next_mirror_where_one_fails(tmp_path: Path) -> None:
    for mirror, names in (("one", ["a"]), ("two", ["a", "b", "c"])):
        for name in names:
            path = tmp_path / mirror / "debian" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode() * 200_000)
    lines: list[str] = []
    with (
        files_served(tmp_path / "one") as one,
        files_served(tmp_path / "two") as two,
        fault_proxy(one, script("/debian/c", Fault(status=500))) as first,
        apt_relay([DEAD, f"http://{first.host}", f"http://{two}"], None, lines.append) as configuration,
    ):
        proxy = configuration[0].split('"')[1]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))

        def get(name: str) -> bytes:
            with opener.open(f"http://deb.debian.org/debian/{name}", timeout=10) as answer:
                return bytes(answer.read())

        assert get("a") == b"a" * 200_000
        assert get("b") == b"b" * 200_000  # the first lacks it, and stays the first
        assert get("c") == b"c" * 200_000  # the first is ill, and is asked no more
        asked = len(first.requests)
        assert get("a") == b"a" * 200_000
        assert len(first.requests) == asked == 3
    assert [line.split(":")[0:2] for line in lines] == [["127.0.0.1", "1"], first.host.split(":")]


# --- no trace -----------------------------------------------------------------------------------


def make_index(folder: Path) -> None:
    """A package index with one package of one module."""
    package = folder / "simple" / "nearby"
    package.mkdir(parents=True)
    wheel = package / "nearby-1.0-py3-none-any.whl"
    info = "nearby-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nearby.py", "HERE = True\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nearby\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"nearby.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (package / "index.html").write_text(f'<a href="{wheel.name}#sha256={digest}">{wheel.name}</a>')


@pytest.mark.apptainer
@pytest.mark.skipif(
    not (shutil.which("apptainer") and any(map(shutil.which, PROGRAMS)) and shutil.which("mmdebstrap")),
    reason="needs scripts/install-apptainer and scripts/install-packages registry",
)
def test_mirrors_build_the_image_and_leave_no_trace_in_it(project: Path, cache: Path, tmp_path: Path) -> None:
    archive = urlsplit(machine_archives().get("", [""])[0])
    if archive.scheme != "http" or archive.hostname not in ARCHIVES:
        pytest.skip("this machine's apt has another mirror than Debian's own: so has the bootstrapped base")
    make_index(tmp_path / "index")
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    install = "RUN python3 -m pip install --no-cache-dir --break-system-packages nearby==1.0\n"
    dockerfile.write_text(DOCKERFILE.replace(" python3 >", " python3 python3-pip >") + install)
    with contextlib.ExitStack() as stack:
        own_cache = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=cache, prefix="mirrors-")))
        # A base in the cache would be used before any mirror: this cache has none.
        base = stack.enter_context(base_source("debian:bookworm-slim", cache))
        registry = stack.enter_context(fault_proxy(base.resolved.split("/")[0]))
        pip = stack.enter_context(fault_proxy(stack.enter_context(files_served(tmp_path / "index"))))
        apt = stack.enter_context(fault_proxy(archive.netloc))
        write_site(
            project,
            "[mirrors]\n"
            f'registry = ["127.0.0.1:1", "{registry.host}"]\n'
            f'pip = ["{DEAD}/simple", "http://{pip.host}/simple"]\n'
            f'apt = ["{DEAD}", "http://{apt.host}"]\n',
        )
        environment = {"HARNESS_CACHE": str(own_cache)}
        done = harness(project, "build", "2", "--site", "near", env=environment)
        assert done.returncode == 0, done.stderr
        for mirror in (registry, pip, apt):
            assert any(request.startswith("GET") for request in mirror.requests)
        assert "127.0.0.1:1: no: " in done.stderr
        built = sorted((own_cache / "stages").glob("*.sif"))
        assert built
        _no_trace(project, (registry, pip, apt))

        # What was built is the same to a site without mirrors: nothing is built again.
        shutil.copytree(cache / "base", own_cache / "base")
        again = harness(project, "build", "2", "--force", env=environment)
        assert again.returncode == 0, again.stderr
        assert sorted((own_cache / "stages").glob("*.sif")) == built
        assert "Running post scriptlet" not in again.stderr


def _no_trace(project: Path, mirrors: tuple[FaultProxy, ...]) -> None:
    """No address of loopback and none of the mirrors' ports in any file, label, variable, the lock or the SBOM."""
    layer = main_file(project / "catalog", "tutorial2.cpu")
    image = exported(project, project.parent / "whole.sif")
    engine = find_engine()
    inside = [str(engine.path), "exec", *engine.run_flags(), "--cleanenv", "--no-home", str(image)]
    imported = run_command([*inside, "python3", "-c", "import nearby; print(nearby.HERE)"], separate_stdout=True)
    assert imported.stdout == "True"
    with subprocess.Popen(
        [*inside, "tar", "--one-file-system", "-C", "/", "-cf", "-", "."], stdout=subprocess.PIPE
    ) as packing:
        assert packing.stdout is not None
        tree = packing.stdout.read()
    assert len(tree) > 50e6
    described = run_command([str(engine.path), "inspect", "--all", "--json", str(image)], separate_stdout=True).stdout
    spoken = run_command([*inside, "env"], separate_stdout=True).stdout
    texts = (described, spoken, read_lock(layer).model_dump_json(), json.dumps(read_sbom(layer)))
    for address in (*(mirror.host for mirror in mirrors), "127.0.0.1:1/", DEAD):
        assert address.encode() not in tree
        assert [text for text in texts if address in text] == []
