"""`harness cache`: what builds keep is listed with who needs it, and nothing is removed that a build uses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NO_ENGINE
from test_builders import builder, until
from tiny_project import HARNESS, harness

from harness.cli.cache import parse_size
from harness.errors import UserError
from harness.files import sha256_of
from harness.image.blobs import BlobStore
from harness.image.cache_entries import CacheEntry, Kind
from harness.image.cache_gc import trim
from harness.image.cache_needs import parts_of_image
from harness.image.held import HeldFiles, is_held, remove_unless_held

DAY_S = 86_400.0
NOW = 1_000 * DAY_S
DOCKERFILE = "containers/tiny/Dockerfile.cpu"
STAGED = "RUN sort /opt/stack/requirements.lock >/opt/stack/sorted\nRUN wc -l /opt/stack/sorted >/opt/stack/count\n"
needs_engine = pytest.mark.skipif(
    shutil.which("apptainer") is None and shutil.which("singularity") is None, reason=NO_ENGINE
)


def entry(
    folder: Path, name: str, kind: Kind = "stage", *, age_days: float, needed_by: str = "", stays: bool = False
) -> CacheEntry:
    path = folder / name
    path.write_bytes(bytes(100))
    return CacheEntry(kind, path, 100, NOW - age_days * DAY_S, (needed_by,) if needed_by else (), stays=stays)


def names(removed: list[CacheEntry]) -> list[str]:
    return [entry.path.name for entry in removed]


# --- what goes --------------------------------------------------------------------------------


def test_what_is_old_and_not_needed_goes_and_a_limit_takes_the_longest_unused_first(tmp_path: Path) -> None:
    def entries() -> list[CacheEntry]:
        return [
            entry(tmp_path, "needed-old", age_days=30, needed_by="s.cpu 1 of 2"),
            entry(tmp_path, "needed-new", age_days=1, needed_by="s.cpu 2 of 2"),
            entry(tmp_path, "old", age_days=8),
            entry(tmp_path, "older", age_days=9),
            entry(tmp_path, "young", age_days=6),
            entry(tmp_path, "killed", "leftover", age_days=0),
            entry(tmp_path, "a.log", "log", age_days=3),
            entry(tmp_path, "base", "blob", age_days=90, needed_by="s.cpu"),
            entry(tmp_path, "linked", age_days=90, stays=True),
        ]

    def went(keep_days: float, max_bytes: int | None = None) -> list[str]:
        done = trim(entries(), NOW, keep_s=keep_days * DAY_S, max_bytes=max_bytes, remove=True)
        removed = names(list(done))
        assert [name for name in removed if (tmp_path / name).exists()] == []
        return removed

    assert went(7) == ["killed", "older", "old"]
    assert went(0) == ["killed", "older", "old", "young", "a.log"]
    assert went(7, 600) == ["killed", "older", "old"]  # that is enough
    assert went(7, 500) == ["killed", "older", "old", "young"]
    assert went(7, 350) == ["killed", "older", "old", "young", "needed-old", "needed-new"]
    assert went(7, 0) == ["killed", "older", "old", "young", "needed-old", "needed-new"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.log", "base", "linked"}


def test_a_dry_run_says_the_same_and_removes_nothing(tmp_path: Path) -> None:
    entries = [entry(tmp_path, "old", age_days=9), entry(tmp_path, "new", age_days=1)]
    assert names(list(trim(entries, NOW, keep_s=7 * DAY_S, remove=False))) == ["old"]
    assert (tmp_path / "old").is_file()


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500_000_000), ("1.5g", 1_500_000_000), ("2TB", 2_000_000_000_000), ("7", 7)]
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "20 GiB", "many"])
def test_another_text_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match="valid: 500M"):
        parse_size(text)


def test_all_parts_of_an_image_are_known_from_its_index(tmp_path: Path) -> None:
    folder = BlobStore(tmp_path).folder
    folder.mkdir(parents=True)

    def blob(content: object) -> str:
        data = json.dumps(content).encode()
        digest = hashlib.sha256(data).hexdigest()
        (folder / digest).write_bytes(data)
        return f"sha256:{digest}"

    config, layer, absent = blob({"config": {}}), blob("bytes"), f"sha256:{'0' * 64}"
    manifest = blob({"config": {"digest": config}, "layers": [{"digest": layer}, {"digest": absent}]})
    index = blob({"manifests": [{"digest": manifest}, {"digest": absent}]})
    assert set(parts_of_image(tmp_path, index)) == {index, manifest, config, layer, absent}
    assert set(parts_of_image(tmp_path, absent)) == {absent}


# --- what is held -----------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from harness.image.held import HeldFiles
held = HeldFiles()
print(held.hold(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_a_file_that_a_process_holds_stays_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "stage.sif"
    file.write_text("image")
    os.utime(file, (0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert file.stat().st_mtime > 0  # used just now
        assert is_held(file)
        assert not remove_unless_held(file)
        assert file.is_file()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert remove_unless_held(file)
    assert not file.exists()
    assert remove_unless_held(file)
    assert not HeldFiles().hold(file)


def test_a_file_is_held_while_it_gets_its_name_and_a_new_one_of_that_name_is_another(tmp_path: Path) -> None:
    held, part, file = HeldFiles(), tmp_path / ".part", tmp_path / "stage.sif"
    part.write_text("one")
    held.rename(part, file)
    assert is_held(file)
    file.unlink()  # by hand
    assert not held.hold(file)
    file.write_text("two")
    assert not is_held(file)
    assert held.hold(file)
    assert is_held(file)


# --- with real builds -------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path: Path, built_project: Path, cache: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own with copies of base and stages: no links, for what is behind them would be removed too."""
    own = tmp_path / "cache"
    for name in ("base", "stages"):
        shutil.copytree(cache / name, own / name, symlinks=True, ignore=shutil.ignore_patterns(".*"))
    monkeypatch.setenv("HARNESS_CACHE", str(own))
    gc(project, "--keep-days", "0")
    return own


def stages(cache: Path) -> set[str]:
    return {path.stem for path in (cache / "stages").glob("*.sif")}


def gc(project: Path, *arguments: str) -> str:
    done = harness(project, "cache", "gc", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_engine
@pytest.mark.apptainer
def test_stages_are_listed_with_who_needs_them_and_only_those_nobody_needs_go(project: Path, own_cache: Path) -> None:
    dockerfile = project / DOCKERFILE
    dockerfile.write_text(dockerfile.read_text() + STAGED)
    assert harness(project, "build", "2").returncode == 0
    before = stages(own_cache)
    gc(project, "--keep-days", "0")
    assert len(stages(own_cache)) == 3
    listed = json.loads(harness(project, "cache", "list", "--json").stdout)
    needed = sorted(tuple(item["needed_by"]) for item in listed if item["kind"] == "stage")
    # The tiny stack's two variants have one Dockerfile; the records of its base are those of the one built here.
    assert needed == [(f"tiny.cpu {number} of 3",) for number in (1, 2, 3)]
    assert [item["needed_by"] for item in listed if item["kind"] == "base"] == [["tiny.cpu", "tiny.cuda"]]
    assert "tiny.cpu 3 of 3" in harness(project, "cache", "list").stdout

    dockerfile.write_text(dockerfile.read_text().replace("wc -l", "wc -c"))
    assert harness(project, "build", "2").returncode == 0
    (new,) = stages(own_cache) - before
    (gone,) = [item for item in json.loads(harness(project, "cache", "list", "--json").stdout)
               if item["kind"] == "stage" and not item["needed_by"]]  # fmt: skip
    assert gone["note"] == "was tiny.cpu 3 of 3"
    assert ".sif" not in gc(project)  # a week has not passed
    assert gone["path"] in gc(project, "--keep-days", "0", "--dry-run")
    assert len(stages(own_cache)) == 4

    # A published image leads to it: a link in the catalog is as good as a second name.
    linked = project / "catalog/stacks/tiny.cpu/linked.sif"
    os.link(gone["path"], linked)
    assert gone["path"] not in gc(project, "--keep-days", "0", "--max-size", "0")
    assert stages(own_cache) == {Path(gone["path"]).stem}
    linked.unlink()
    assert harness(project, "build", "2", "--force").returncode == 0
    gc(project, "--keep-days", "0")
    assert len(stages(own_cache)) == 3
    assert new in stages(own_cache)
    assert Path(gone["path"]).stem not in stages(own_cache)
    assert list(own_cache.glob("base/debian-*/base.json"))
    assert "up to date" in harness(project, "build", "2").stderr
    assert harness(project, "catalog", "verify").returncode == 0


@needs_engine
@pytest.mark.apptainer
def test_a_collection_beside_a_running_build_takes_nothing_it_builds_upon(project: Path, own_cache: Path) -> None:
    dockerfile = project / DOCKERFILE
    dockerfile.write_text(dockerfile.read_text() + STAGED)
    running = builder(project)
    said = until(running, "stage3of3: Starting build")
    running.send_signal(signal.SIGSTOP)  # the engine goes on; the builder notices nothing
    said = gc(project, "--keep-days", "0", "--max-size", "0")
    running.send_signal(signal.SIGCONT)
    rest = running.communicate()[1]
    assert running.returncode == 0, rest
    assert "publish" in rest
    assert "tiny.cpu 2 of 3" not in said
    assert "leftover" not in said


@needs_engine
@pytest.mark.apptainer
def test_a_collection_killed_at_any_moment_leaves_whole_files(project: Path, own_cache: Path) -> None:
    kept = stages(own_cache)
    folder = own_cache / "stages"
    content = {}
    for number in range(2_000):
        path = folder / f"{number:064x}.sif"
        path.write_text(str(number))
        content[path.name] = sha256_of(path)
        os.utime(path, (0, 0))
    command = [str(HARNESS), "cache", "gc"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert ".sif" in process.stdout.readline()
        process.kill()
    left = list(folder.glob("0000*.sif"))
    assert {path.name: sha256_of(path) for path in left}.items() <= content.items()
    gc(project)
    assert stages(own_cache) == kept
    assert list(own_cache.glob("base/debian-*/base.json"))
