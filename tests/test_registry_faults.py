"""Registries that fail: a real registry behind a proxy that breaks connections, answers 500 and 429, and lies."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_proxy import FINE, Fault, fault_proxy, script
from tiny_project import harness

from harness.catalog.catalog import Catalog
from harness.errors import HarnessError
from harness.image import local_registry, registry
from harness.image.base import BaseRecord, base_source, ensure_base
from harness.image.cache_entries import cache_entries
from harness.image.cache_needs import Needs
from harness.image.process import run_command
from harness.image.registry import RegistryUnreachableError, probe
from harness.image.sources import SILENCE_S
from harness.runtime.retry import RetryPolicy

SLIM = "debian:bookworm-slim"
OTHER = "sha256:" + "ab" * 32
QUICK = RetryPolicy(attempts=4, first_pause_s=0.01, longest_pause_s=2.0, stall_s=1.0)
REPOSITORY = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    not (any(map(shutil.which, local_registry.PROGRAMS)) and shutil.which("skopeo") and shutil.which("mmdebstrap")),
    reason="needs scripts/install-packages registry",
)


@pytest.fixture(autouse=True)
def no_docker_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker Hub does not answer, wherever the tests run: nothing listens on port 1."""
    monkeypatch.setattr(registry, "_DOCKER_HUB_API", "127.0.0.1:1")


@pytest.fixture(scope="module")
def slim(cache: Path) -> BaseRecord:
    return ensure_base(SLIM, cache)


@pytest.fixture(scope="module")
def served(slim: BaseRecord, cache: Path) -> Iterator[str]:
    """host:port of a real registry that has the image."""
    with base_source(SLIM, cache) as image:
        yield image.resolved.split("/")[0]


def pull(reference: str, folder: Path) -> int:
    """Pull with a real client; the size of what it got."""
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
    run_command([*copy, f"docker://{reference}", f"oci:{folder}:x"], timeout_s=120)
    return sum(path.stat().st_size for path in (folder / "blobs").rglob("*") if path.is_file())


def stored(cache: Path) -> list[str]:
    """Names of what a cache has of images, but for its locks; raises where a file is not what its name says."""
    files = [path for path in (cache / "blobs").rglob("*") if path.is_file() and path.suffix != ".lock"]
    for path in files:
        digest = run_command(["sha256sum", path], separate_stdout=True).stdout.split()[0]
        assert path.name == digest
    return sorted(path.name for path in files)


def test_a_flapping_registry_gives_the_image(served: str, slim: BaseRecord, tmp_path: Path) -> None:
    lines: list[str] = []
    third = 9 << 20
    plans = [
        script("HEAD", Fault(status=503), Fault(drop=True), Fault(status=429, retry_after="1")),
        script("GET /v2/library/debian/manifests", Fault(status=500), Fault(drop=True), Fault(cut=100)),
        script("/blobs/", Fault(status=502), Fault(cut=third), Fault(cut=third), Fault(cut=third)),
    ]
    with (
        fault_proxy(served, *plans) as proxy,
        base_source(SLIM, tmp_path, mirrors=[proxy.host], policy=QUICK, on_line=lines.append) as image,
    ):
        assert (image.origin, image.digest) == ("registry", slim.digest)
        size = pull(image.resolved, tmp_path / "oci")
        # It went on where it broke off: from the start each time would be twice the image.
        assert proxy.sent < 1.5 * size
        assert any("bytes=" in request for request in proxy.requests)
    assert len(stored(tmp_path)) == 3  # manifest, configuration, layer
    said = "\n".join(lines)
    for words in ("HTTP 503", "HTTP 429", "HTTP 500", "HTTP 502", "broke off", "asking again in"):
        assert words in said


def test_a_registry_that_is_silent_for_a_while_is_asked_again_before_anything_is_bootstrapped(
    served: str, slim: BaseRecord, tmp_path: Path
) -> None:
    lines: list[str] = []
    hiccup = script("HEAD", Fault(silent=True), Fault(silent=True))
    with fault_proxy(served, hiccup) as proxy:
        record = ensure_base(
            SLIM, tmp_path, mirrors=[proxy.host], policy=QUICK, probe_timeout_s=0.3, on_line=lines.append
        )
    assert (record.origin, record.digest) == ("registry", slim.digest)
    assert not (tmp_path / "base").exists()
    assert sum(f"asking {proxy.host} again in" in line for line in lines) == 2


def test_registries_that_stay_silent_cost_ten_seconds_and_no_more(served: str, tmp_path: Path) -> None:
    patient = RetryPolicy(attempts=1000, first_pause_s=0.01, longest_pause_s=0.1)
    with (
        fault_proxy(served, script("HEAD", rest=Fault(silent=True))) as one,
        fault_proxy(served, script("HEAD", rest=Fault(silent=True))) as other,
    ):
        started = time.monotonic()
        with pytest.raises(RegistryUnreachableError, match="no answer"):
            ensure_base("team/app:1", tmp_path, mirrors=[one.host, other.host], policy=patient, probe_timeout_s=1.0)
        assert SILENCE_S < time.monotonic() - started < SILENCE_S + 3.0


def test_a_refresh_takes_the_registrys_base_from_now_on(
    served: str, slim: BaseRecord, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(cache / "base", tmp_path / "base")
    assert ensure_base(SLIM, tmp_path, mirrors=[served]).origin == "bootstrapped"
    assert ensure_base(SLIM, tmp_path, mirrors=[served], refresh=True).origin == "registry"
    assert ensure_base(SLIM, tmp_path, mirrors=[served]).origin == "registry"


@pytest.mark.apptainer
@pytest.mark.skipif(shutil.which("apptainer") is None, reason="needs scripts/install-apptainer")
def test_a_build_can_be_told_to_ask_the_registries_again(
    served: str, cache: Path, tmp_path: Path, project: Path, built_project: Path
) -> None:
    shutil.copytree(cache / "base", tmp_path / "base")
    (tmp_path / "stages").symlink_to(cache / "stages")
    env = {"HARNESS_CACHE": str(tmp_path)}
    site = project / "sites/default.toml"
    site.write_text(f'{site.read_text()}\n[mirrors]\nregistry = ["http://{served}"]\n')
    catalog = Catalog(project / "catalog")
    for options, origin in (([], "bootstrapped"), (["--refresh-base"], "registry"), (["--force"], "registry")):
        done = harness(project, "build", "2", *options, env=env)
        assert done.returncode == 0, done.stderr
        manifest = catalog.current("tutorial2.cpu")
        assert manifest is not None
        assert manifest.base.origin == origin
        assert ("bootstrapped here on" in done.stderr) == (origin == "bootstrapped")


def test_a_base_and_a_part_are_as_old_as_their_last_use(served: str, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache / "base", tmp_path / "base")
    with base_source(f"{served}/library/debian:bookworm-slim", tmp_path) as image:
        pull(image.resolved, tmp_path / "oci")
    long_ago = 1_000_000_000
    for path in [*tmp_path.glob("base/debian-*"), *tmp_path.glob("base/*/base.json"), *tmp_path.glob("blobs/*/*")]:
        os.utime(path, (long_ago, long_ago))
    before = {entry.path: entry for entry in cache_entries(tmp_path, Needs())}
    assert {entry.kind for entry in before.values()} == {"base", "blob"}
    assert {entry.used_at for entry in before.values()} == {long_ago}
    record = ensure_base(SLIM, tmp_path)
    assert record.bootstrapped_on == "2001-09-09"  # when it was made, not when it was used
    with base_source(f"{served}/library/debian:bookworm-slim", tmp_path) as image:
        pull(image.resolved, tmp_path / "oci2")
    assert min(entry.used_at for entry in cache_entries(tmp_path, Needs())) > time.time() - 3600


def test_a_mirror_that_never_finishes_is_left_for_the_next(served: str, tmp_path: Path) -> None:
    lines: list[str] = []
    cut = script("/blobs/", rest=Fault(cut=0))
    with (
        fault_proxy(served, cut) as broken,
        fault_proxy(served) as good,
        base_source(SLIM, tmp_path, mirrors=[broken.host, good.host], policy=QUICK, on_line=lines.append) as image,
    ):
        pull(image.resolved, tmp_path / "oci")
        assert len([r for r in broken.requests if "/blobs/" in r]) == QUICK.attempts
    assert any(f"{broken.host}: giving up" in line and "trying the next mirror" in line for line in lines)


def test_a_mirror_that_stops_in_the_middle_is_left_with_what_it_gave(served: str, tmp_path: Path) -> None:
    half = 8 << 20
    stop = Fault(cut=half, hang=True)
    patience = RetryPolicy(attempts=1, stall_s=0.5)
    with (
        fault_proxy(served, lambda method, path: stop if "/blobs/" in path else FINE) as silent,
        fault_proxy(served) as good,
        base_source(SLIM, tmp_path, mirrors=[silent.host, good.host], policy=patience) as image,
    ):
        pull(image.resolved, tmp_path / "oci")
        assert any(f"bytes={half}-" in request for request in good.requests)
    assert len(stored(tmp_path)) == 3


def test_a_mirror_with_other_content_is_named_with_both_digests(served: str, slim: BaseRecord, tmp_path: Path) -> None:
    lines: list[str] = []
    lie = script("GET", rest=Fault(flip=True))
    with fault_proxy(served, lie) as liar, fault_proxy(served) as good:
        with base_source(SLIM, tmp_path, mirrors=[liar.host, good.host], policy=QUICK, on_line=lines.append) as image:
            pull(image.resolved, tmp_path / "oci")
        (line,) = [line for line in lines if "serves other content" in line]
        assert line.startswith(f"{liar.host}: ")
        assert f"wanted {slim.digest}, got sha256:" in line

        # With nobody else to ask it is the error, whatever the engine's own words are.
        with (
            pytest.raises(HarnessError, match=rf"{liar.host}: serves other content for .*wanted {slim.digest}"),
            base_source(SLIM, tmp_path / "alone", mirrors=[liar.host], policy=QUICK) as image,
        ):
            pull(image.resolved, tmp_path / "oci2")
    assert stored(tmp_path / "alone") == []


def test_a_pinned_digest_is_held_against_what_is_served(served: str, slim: BaseRecord, tmp_path: Path) -> None:
    pinned = f"debian@{slim.digest}"
    with base_source(pinned, tmp_path, mirrors=[served]) as image:
        assert image.digest == slim.digest
        pull(image.resolved, tmp_path / "oci")
    # What is there once needs no registry again.
    with base_source(pinned, tmp_path) as image:
        pull(image.resolved, tmp_path / "oci2")
    with pytest.raises(HarnessError, match="no registry gave it") as caught:
        ensure_base(f"debian@{OTHER}", tmp_path, mirrors=[served])
    assert f"there is no image library/debian@{OTHER}" in str(caught.value)


def test_a_damaged_part_in_the_cache_is_fetched_anew(served: str, tmp_path: Path) -> None:
    with base_source(SLIM, tmp_path, mirrors=[served]) as image:
        pull(image.resolved, tmp_path / "oci")
    largest = max((tmp_path / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as stream:
        stream.write(b"????")
    with base_source(SLIM, tmp_path, mirrors=[served]) as image:
        pull(image.resolved, tmp_path / "oci2")
    assert len(stored(tmp_path)) == 3


def test_a_killed_fetch_leaves_nothing_that_counts(served: str, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, urllib.request; from harness.image import base, registry\n"
        "registry._DOCKER_HUB_API = '127.0.0.1:1'\n"
        "with base.base_source(sys.argv[1], pathlib.Path(sys.argv[2]), mirrors=[sys.argv[3]],"
        " on_line=lambda line: print(line, flush=True)) as image:\n"
        "    host, _, digest = image.resolved.partition('/library/debian@')\n"
        "    url = f'http://{host}/v2/library/debian/'\n"
        "    manifest = __import__('json').load(urllib.request.urlopen(f'{url}manifests/{digest}'))\n"
        "    urllib.request.urlopen(url + 'blobs/' + manifest['layers'][0]['digest'])\n"
    )
    with (
        fault_proxy(served, script("/blobs/", rest=Fault(cut=4 << 20, hang=True))) as slow,
        subprocess.Popen(
            [sys.executable, "-c", program, SLIM, str(tmp_path), slow.host],
            cwd=REPOSITORY,
            text=True,
            stdout=subprocess.PIPE,
        ) as fetching,
    ):
        assert fetching.stdout is not None
        assert next(line for line in fetching.stdout if "fetching" in line)
        os.kill(fetching.pid, signal.SIGKILL)
    visible = [path for path in (tmp_path / "blobs/sha256").iterdir() if not path.name.startswith(".")]
    assert len(visible) == 1  # the manifest
    with base_source(SLIM, tmp_path, mirrors=[served]) as image:
        pull(image.resolved, tmp_path / "oci")
    assert len(stored(tmp_path)) == 3  # and the killed one's rest is gone


def test_a_full_disk_is_no_fault_of_the_registry(served: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root; runs as root in CI")
    try:
        with (
            pytest.raises(HarnessError, match="no space left on device while storing a base image"),
            base_source(SLIM, small, mirrors=[served], policy=QUICK) as image,
        ):
            pull(image.resolved, tmp_path / "oci")
        assert len(stored(small)) <= 2  # not the layer
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_registry_that_only_fails_is_one_clear_line(served: str, tmp_path: Path) -> None:
    lines: list[str] = []
    with fault_proxy(served, lambda method, path: Fault(status=500)) as broken:
        with pytest.raises(RegistryUnreachableError) as caught:
            ensure_base("team/app:1", tmp_path, mirrors=[broken.host], policy=QUICK, on_line=lines.append)
        assert len(broken.requests) == QUICK.attempts
    assert f"{broken.host}: fails for team/app:1 (HTTP 500)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "blobs").exists()


def test_the_time_limit_ends_the_patience(served: str, tmp_path: Path) -> None:
    hurried = RetryPolicy(attempts=1000, first_pause_s=0.01, total_s=0.0)
    with (
        fault_proxy(served, script("/blobs/", rest=Fault(status=500))) as broken,
        pytest.raises(HarnessError, match="HTTP 500"),
        base_source(SLIM, tmp_path, mirrors=[broken.host], policy=hurried) as image,
    ):
        pull(image.resolved, tmp_path / "oci")
    assert len([request for request in broken.requests if "/blobs/" in request]) <= 2  # skopeo's own second try


def test_mirrors_that_disagree_about_a_tag(served: str, slim: BaseRecord, tmp_path: Path) -> None:
    """The first in order decides; one with another image under the tag is not asked for parts."""
    lines: list[str] = []
    with local_registry.LocalRegistry(tmp_path / "storage", read_only=False) as other:
        (tmp_path / "layout").mkdir()
        target = other.reference(SLIM)
        image = f"docker://{served}/library/debian@{slim.digest}"
        flags = ["--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", "v2s2"]
        run_command(["skopeo", "--insecure-policy", "copy", *flags, image, f"docker://{target}"], timeout_s=120)
        assert probe(target) != slim.digest
        with base_source(
            SLIM, tmp_path / "c", mirrors=[other.host, served], policy=QUICK, on_line=lines.append
        ) as chosen:
            assert chosen.digest == probe(target)
            pull(chosen.resolved, tmp_path / "oci")
    assert len(json.loads((tmp_path / "oci/index.json").read_text())["manifests"]) == 1


def test_pauses_double_up_to_a_limit_and_heed_the_registry() -> None:
    policy = RetryPolicy(attempts=3, first_pause_s=1.0, longest_pause_s=5.0)
    for failures, doubled in ((1, 1.0), (2, 2.0), (3, 4.0), (9, 5.0)):
        pauses = [policy.pause(failures, chance=random.Random(seed)) for seed in range(50)]
        assert doubled / 2 <= min(pauses) < max(pauses) <= doubled
    assert policy.pause(1, retry_after_s=4.0) == 4.0
    assert not policy.gives_up(2)
    assert policy.gives_up(3)
    assert policy.gives_up(1, retry_after_s=6.0)  # the next mirror is sooner
