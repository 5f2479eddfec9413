"""Commands, registries and base images, on a real registry and a real bootstrap of Debian.

The base is made once and kept under $HARNESS_TEST_CACHE, else <repository>/cache/test.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import CommandError, HarnessError, MissingToolError, UserError
from harness.image import base, debian, local_registry, registry
from harness.image.base import BaseImage, BaseRecord, base_source, ensure_base
from harness.image.base_cache import BaseCache
from harness.image.local_registry import LocalRegistry
from harness.image.process import run_command
from harness.image.reference import ImageReference
from harness.image.registry import (
    ImageNotFoundError,
    RegistryError,
    RegistryUnauthorizedError,
    RegistryUnreachableError,
    probe,
)
from harness.mirrors import is_loopback

REPOSITORY = Path(__file__).resolve().parent.parent
SLIM = "debian:bookworm-slim"
DIGEST = "sha256:" + "ab" * 32

needs_registry = pytest.mark.skipif(
    not (any(map(shutil.which, local_registry.PROGRAMS)) and shutil.which("skopeo") and shutil.which("mmdebstrap")),
    reason="needs scripts/install-packages registry",
)


@pytest.fixture(autouse=True)
def no_docker_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker Hub does not answer, wherever the tests run: nothing listens on port 1."""
    monkeypatch.setattr(registry, "_DOCKER_HUB_API", "127.0.0.1:1")


@pytest.fixture(scope="session")
def base_cache() -> Path:
    return Path(os.environ.get("HARNESS_TEST_CACHE") or REPOSITORY / "cache" / "test")


@pytest.fixture
def slim(base_cache: Path) -> BaseRecord:
    """The bootstrapped base; made by the first test that asks, read from the cache by the others."""
    return ensure_base(SLIM, base_cache)


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """An HTTP server on loopback; yields ``host:port``."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


# --- run_command ------------------------------------------------------------------------------


def test_lines_are_streamed_and_kept() -> None:
    seen: list[str] = []
    result = run_command(["sh", "-c", r"printf 'one\r\ntwo\rthree\nlast'; printf '\377' >&2"], on_line=seen.append)
    assert seen == ["one", "two", "three", "last\ufffd"]
    assert result.output.splitlines() == seen
    assert result.returncode == 0


def test_standard_output_can_be_kept_apart() -> None:
    seen: list[str] = []
    result = run_command(["sh", "-c", "echo '{}'; echo warning >&2"], separate_stdout=True, on_line=seen.append)
    assert (result.stdout, seen) == ("{}", ["warning"])


def test_a_failure_quotes_the_last_lines() -> None:
    with pytest.raises(CommandError) as caught:
        run_command(["sh", "-c", "seq 100; echo 'no space left' >&2; exit 3"], what="squashing", where="x.sif")
    error = caught.value
    assert str(error) == "x.sif: squashing: sh ended with status 3: no space left"
    assert error.returncode == 3
    assert error.output.splitlines()[-2:] == ["100", "no space left"]
    assert len(error.output.splitlines()) == 20


def test_a_missing_program_is_the_users_mistake() -> None:
    with pytest.raises(MissingToolError, match="no-such-program is not on this machine"):
        run_command(["no-such-program"])


def descendants_named(mark: str) -> list[str]:
    return subprocess.run(["pgrep", "-f", mark], text=True, stdout=subprocess.PIPE).stdout.split()


@pytest.mark.parametrize("how", ["timeout", "callback", "Ctrl-C"])
def test_the_whole_group_ends_with_the_caller(how: str) -> None:
    seconds = f"31{time.time_ns() % 10**9}"  # finds our sleep, and no other
    script = f"sleep {seconds} & echo started; sleep {seconds}"

    def on_line(line: str) -> None:
        if how != "timeout":
            raise KeyboardInterrupt if how == "Ctrl-C" else OSError("disk full")

    expected = {"timeout": CommandError, "callback": OSError, "Ctrl-C": KeyboardInterrupt}[how]
    with pytest.raises(expected):
        run_command(["sh", "-c", script], on_line=on_line, timeout_s=0.5)
    assert descendants_named(f"sleep {seconds}") == []


def test_a_daemon_left_behind_does_not_hold_us_up() -> None:
    started = time.monotonic()
    assert run_command(["sh", "-c", "sleep 4 & echo done"]).output == "done"
    assert time.monotonic() - started < 2


# --- references -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "docker.io/library/debian:latest"),
        (SLIM, "docker.io/library/debian:bookworm-slim"),
        ("docker://debian:12", "docker.io/library/debian:12"),
        ("index.docker.io/debian:12", "docker.io/library/debian:12"),
        ("pytorch/pytorch:2.5.1-cuda12", "docker.io/pytorch/pytorch:2.5.1-cuda12"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("nvcr.io/nvidia/pytorch:24.01-py3", "nvcr.io/nvidia/pytorch:24.01-py3"),
    ],
)
def test_references_are_completed_as_docker_does(text: str, full: str) -> None:
    assert str(ImageReference.parse(text)) == full


@pytest.mark.parametrize("text", ["", "UPPER/case", "debian:", "debian:a b", "debian@sha256:short", "a//b"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no image reference"):
        ImageReference.parse(text)


def test_a_mirror_may_have_a_prefix_and_no_tls() -> None:
    image = ImageReference.parse(SLIM).at("http://harbor.example:8080/hub/")
    assert (str(image), image.insecure_http) == ("harbor.example:8080/hub/library/debian:bookworm-slim", True)
    assert not ImageReference.parse(SLIM).at("mirror.example").insecure_http


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1:5000", True), ("localhost", True), ("[::1]:5000", True),
                                                ("127.0.0.1.example.com", False), ("10.0.0.1:80", False)])  # fmt: skip
def test_loopback_means_no_tls(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


# --- probing ----------------------------------------------------------------------------------


def test_a_dead_registry_is_one_clear_line() -> None:
    with pytest.raises(RegistryUnreachableError) as caught:
        probe("127.0.0.1:1/team/app:1")
    assert str(caught.value).startswith("127.0.0.1:1: no registry answers for team/app:1 (connection refused); ")
    assert "\n" not in str(caught.value)


def test_a_silent_registry_costs_the_time_limit_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        started = time.monotonic()
        with pytest.raises(RegistryUnreachableError, match="no answer"):
            probe(f"127.0.0.1:{silent.getsockname()[1]}/a/b", timeout_s=0.5)
        assert time.monotonic() - started < 1.5


class _Portal(http.server.BaseHTTPRequestHandler):
    """A captive portal: 200 for everything, and no registry."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class _TokenRegistry(http.server.BaseHTTPRequestHandler):
    """Speaks Docker Hub's token flow; repository ``open/app`` is for everybody, others are not."""

    def do_HEAD(self) -> None:
        host = self.headers["Host"]
        if self.headers["Authorization"] == "Bearer pass" and "/open/app/" in self.path:
            self.send_response(200)
            self.send_header("Docker-Content-Digest", DIGEST)
        elif "/busy/" in self.path:
            self.send_response(429)
        else:
            self.send_response(401)
            scope = "repository:open/app:pull"
            self.send_header("WWW-Authenticate", f'Bearer realm="http://{host}/token",service="s",scope="{scope}"')
        self.end_headers()

    def do_GET(self) -> None:
        assert self.path == "/token?service=s&scope=repository%3Aopen%2Fapp%3Apull"
        body = json.dumps({"token": "pass"}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_what_answers_may_be_no_registry() -> None:
    with serving(_Portal) as host, pytest.raises(RegistryUnreachableError, match="no image registry"):
        probe(f"{host}/a/b")


def test_the_token_flow_and_its_refusals() -> None:
    with serving(_TokenRegistry) as host:
        assert probe(f"{host}/open/app:1") == DIGEST
        with pytest.raises(RegistryUnauthorizedError, match="log in: apptainer registry login"):
            probe(f"{host}/closed/app:1")
        with pytest.raises(RegistryError, match="too many requests"):
            probe(f"{host}/busy/app:1")


# --- a registry of our own --------------------------------------------------------------------


@needs_registry
def test_a_local_registry_answers_and_ends(tmp_path: Path) -> None:
    with LocalRegistry(tmp_path / "a b: #c") as one, LocalRegistry(tmp_path / "other") as other:
        assert one.host != other.host
        with pytest.raises(ImageNotFoundError, match="there is no image library/debian:nope"):
            probe(one.reference("debian:nope"))
        host = one.host
    with pytest.raises(RegistryUnreachableError):
        probe(f"{host}/library/debian:nope")


@needs_registry
def test_a_local_registry_ends_with_a_killed_process(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib; from harness.image.local_registry import LocalRegistry\n"
        "with LocalRegistry(pathlib.Path(sys.argv[1])) as r: print(r.host, flush=True); os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    killed = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "s"], cwd=REPOSITORY, env=env, text=True, stdout=subprocess.PIPE
    )
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", int(killed.stdout.split(":")[1])), 1).close()
        except OSError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the registry outlived its process")
    assert not list(tmp_path.glob("harness-registry-*"))


@needs_registry
def test_a_registry_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalRegistry, "_configuration", lambda self: {"version": "0.1"})
    with (
        pytest.raises(HarnessError, match=r"the local registry did not start: .*no storage configuration"),
        LocalRegistry(tmp_path),
    ):
        pass


# --- base images ------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["ubuntu:24.04", f"debian:bookworm-slim@{DIGEST}", "debian:bookworm-20240101"])
def test_what_cannot_be_bootstrapped_says_who_was_asked(tmp_path: Path, reference: str) -> None:
    started = time.monotonic()
    with pytest.raises(RegistryUnreachableError) as caught:
        ensure_base(reference, tmp_path, mirrors=["http://127.0.0.1:2"])
    text = str(caught.value)
    assert text.startswith(f"{reference}: no registry gave it (127.0.0.1:2: ")
    assert "docker.io: " in text
    assert "mirror" in text
    assert "\n" not in text
    assert time.monotonic() - started < 5


@needs_registry
def test_the_bootstrapped_base_says_what_it_is(slim: BaseRecord, base_cache: Path) -> None:
    assert (slim.origin, slim.suite, slim.reference) == ("bootstrapped", "bookworm", SLIM)
    packages = slim.details["packages"]
    assert isinstance(packages, dict)
    assert {"apt", "bash", "libc6", "debian-archive-keyring"} <= packages.keys()
    assert "perl" not in packages  # minimal, as Docker's own: perl-base only
    assert isinstance(slim.details["releases"], dict)
    assert "bookworm" in slim.details["releases"]
    assert "://" not in json.dumps(slim.lock_entry())  # nobody's mirror


@needs_registry
def test_the_second_call_is_fast_and_needs_no_tool(
    slim: BaseRecord, base_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(base, "choose_source", lambda *_: pytest.fail("the network was asked"))
    started = time.monotonic()
    assert ensure_base("debian:12-slim", base_cache).digest == slim.digest
    assert time.monotonic() - started < 1


@needs_registry
def test_its_layer_is_like_dockers_own(slim: BaseRecord, base_cache: Path, tmp_path: Path) -> None:
    with base_source(SLIM, base_cache) as image:
        assert image.insecure_http
        assert image.resolved.endswith(f"/library/debian@{slim.digest}")
        assert probe(image.resolved) == slim.digest
        layout = tmp_path / "oci"
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
        run_command([*copy, f"docker://{image.resolved}", f"oci:{layout}:x"])
    manifest = json.loads((layout / "blobs" / slim.digest.replace(":", "/")).read_text())
    config = json.loads((layout / "blobs" / manifest["config"]["digest"].replace(":", "/")).read_text())
    assert config["config"]["Cmd"] == ["bash"]
    assert config["config"]["Env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    (layer,) = manifest["layers"]
    listing = run_command(
        ["tar", "tvzf", layout / "blobs" / layer["digest"].replace(":", "/"), "--numeric-owner"]
    ).output.splitlines()
    names = {line.split(None, 5)[5].removeprefix("./") for line in listing}
    assert not [line for line in listing if line[0] in "bc"]  # no device nodes
    assert {"dev/", "etc/apt/sources.list.d/", "usr/sbin/policy-rc.d"} <= names
    leftovers = ("var/lib/apt/lists/deb", "var/cache/apt/archives/apt", "var/log/dpkg.log", "usr/share/man/man1/")
    assert not [name for name in names if name.startswith(leftovers) or name in ("releases", "etc/machine-id")]


@needs_registry
def test_a_mirror_that_answers_wins(slim: BaseRecord, base_cache: Path, tmp_path: Path) -> None:
    with (
        base_source(SLIM, base_cache) as served,
        base_source(SLIM, tmp_path, mirrors=["127.0.0.1:1", served.resolved.split("/")[0]]) as image,
    ):
        assert (image.origin, image.digest) == ("registry", slim.digest)
        assert image.details == {"registry": served.resolved.split("/")[0]}
        assert probe(image.resolved) == slim.digest
    assert [path.name for path in tmp_path.iterdir()] == ["blobs"]  # nothing was bootstrapped


@needs_registry
def test_an_unknown_image_on_a_registry_that_answers(slim: BaseRecord, base_cache: Path, tmp_path: Path) -> None:
    with base_source(SLIM, base_cache) as served:
        host = served.resolved.split("/")[0]
        with pytest.raises(ImageNotFoundError, match="there is no image library/debian:nope") as caught:
            ensure_base(f"{host}/library/debian:nope", tmp_path)
    assert str(caught.value).endswith("check the name and the tag")


@needs_registry
def test_corruption_a_kill_and_two_callers_at_once(slim: BaseRecord, base_cache: Path, tmp_path: Path) -> None:
    """A cache with one wrong byte, then a caller killed half way, then two callers: one makes it, both get it."""
    shutil.copytree(base_cache / "base", tmp_path / "base")
    blob = max((tmp_path / "base").rglob("data"), key=lambda path: path.stat().st_size)
    with blob.open("r+b") as stream:
        stream.seek(1000)
        byte = stream.read(1)
        stream.seek(1000)
        stream.write(bytes([byte[0] ^ 1]))

    target = debian.DebianTarget.of(ImageReference.parse(SLIM))
    assert target is not None
    cache = BaseCache(tmp_path, target)
    assert cache.read() is None

    program = (
        "import sys, pathlib; from harness.image import base, registry\n"
        "registry._DOCKER_HUB_API = '127.0.0.1:1'\n"
        "base.ensure_base(sys.argv[1], pathlib.Path(sys.argv[2]), on_line=lambda line: print(line, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, SLIM, tmp_path], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE
    ) as caller:
        assert caller.stdout is not None
        assert next(line for line in caller.stdout if "running apt-get update" in line)
        caller.kill()
    assert cache.read() is None
    (left,) = cache.parent.glob(f".{cache.key}-*")
    scratch = Path((left / "scratch").read_text())

    says: list[list[str]] = [[], []]
    made: list[BaseRecord] = []

    def call(number: int) -> None:
        made.append(ensure_base(SLIM, tmp_path, on_line=says[number].append))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert sum(any("creating tarball" in line for line in said) for said in says) == 1
    packages = [record.details["packages"] for record in made]
    assert packages[0] == packages[1]
    if packages[0] == slim.details["packages"] and made[0].details["releases"] == slim.details["releases"]:
        assert [record.digest for record in made] == [slim.digest, slim.digest]  # the same inputs, the same bytes
    assert sorted(path.name for path in cache.parent.iterdir()) == [cache.key, f"{cache.key}.lock"]
    assert not scratch.exists()


@needs_registry
@pytest.mark.apptainer
@pytest.mark.skipif(shutil.which("apptainer") is None, reason="needs scripts/install-apptainer")
def test_apptainer_builds_from_it(slim: BaseRecord, base_cache: Path, tmp_path: Path) -> None:
    image = tmp_path / "base.sif"
    with base_source(SLIM, base_cache) as source:
        assert isinstance(source, BaseImage)
        definition = tmp_path / "base.def"
        definition.write_text(f"Bootstrap: docker\nFrom: {source.resolved}\n%post\n    touch /built\n")
        squash = ["--mksquashfs-args", "-comp zstd -Xcompression-level 3"]
        env = {**os.environ, "APPTAINER_NOHTTPS": "1", "APPTAINER_CACHEDIR": str(tmp_path / "cache")}
        run_command(["apptainer", "build", "--fakeroot", *squash, image, definition], env=env, timeout_s=300)
    inside = run_command(
        ["apptainer", "exec", "--userns", image, "sh", "-c", "cat /built /etc/debian_version"], separate_stdout=True
    )
    assert inside.stdout.startswith("12")
