"""The catalog: a stack held once, readers that see whole images only, and nothing that was changed is run."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import fill
from tiny_project import exported, harness, main_file

from harness.catalog.catalog import Catalog, ImageFiles
from harness.catalog.check import problems
from harness.catalog.manifest import Manifest
from harness.files import sha256_of, write_json
from harness.image import sif
from harness.image.engine import find_engine
from harness.image.keys import KEY_VARIABLE, signing_key, trust, trusted_keys
from harness.image.parts import join, read_reference
from harness.image.sign import sign, verify

NAME = "tutorial2.cpu"
STACK = "tiny.cpu"
CPU_JOB = "jobs/tutorial2.apptainer.cpu.job"
pytestmark = pytest.mark.apptainer


@pytest.fixture
def catalog(built_project: Path, tmp_path: Path) -> Catalog:
    """A copy of a catalog with one image."""
    shutil.copytree(built_project / "catalog", tmp_path / "catalog", symlinks=True)
    return Catalog(tmp_path / "catalog")


def current(catalog: Catalog) -> Manifest:
    manifest = catalog.current(NAME)
    assert manifest is not None
    return manifest


def files_of(catalog: Catalog) -> tuple[Path, Path]:
    """Layer and stack, the files themselves."""
    files = catalog.files(current(catalog))
    assert files.stack is not None
    return files.main, files.stack.resolve()


def job(root: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "CATALOG"))}
    return subprocess.run(
        ["bash", CPU_JOB],
        cwd=root,
        env={**clean, "PRESET": "smoke", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def run_folder(root: Path, done: subprocess.CompletedProcess[str]) -> Path:
    match = re.search(r"^run: (runs/\S+)$", done.stdout, re.MULTILINE)
    assert match, done.stderr
    return root / match[1]


# --- one stack for many -----------------------------------------------------------------------


def test_two_tutorials_and_two_signers_hold_their_stack_once(project: Path, tmp_path: Path) -> None:
    second = project / "tutorials/xscow-3"
    shutil.copytree(project / "tutorials/xscow-2", second)
    spec = second / "tutorial.toml"
    spec.write_text(spec.read_text().replace('id = "xscow-2"', 'id = "xscow-3"'))
    colleague = signing_key({"XDG_CONFIG_HOME": str(tmp_path / "colleague")})
    catalog = Catalog(project / "catalog")
    assert harness(project, "build", "2").returncode == 0
    trust(colleague.public_pem, catalog.keys, "colleague")
    done = harness(project, "build", "3", env={KEY_VARIABLE: str(colleague.path)})
    assert done.returncode == 0, done.stderr

    stacks = list(catalog.stacks.glob("*/*.sif"))
    assert [path.parent.name for path in stacks] == [STACK]
    one, other = (catalog.current(name) for name in (NAME, "tutorial3.cpu"))
    assert one is not None
    assert other is not None
    assert one.stack_image == other.stack_image
    assert one.signed_by != other.signed_by == colleague.fingerprint
    assert one.own_bytes + other.own_bytes < one.bytes / 50
    listed = harness(project, "catalog", "list").stdout
    assert f"stack {STACK} {stacks[0].stem[:12]}" in listed
    assert "2 images" in listed
    checked = harness(project, "catalog", "verify")
    assert checked.returncode == 0, checked.stdout
    # What a person is told to type works.
    told = re.search(r"apptainer run (--overlay \S+ \S+) STEP", harness(project, "list").stdout)
    assert told
    userns = ["--userns"] if os.geteuid() == 0 else []
    command = ["apptainer", "run", *userns, "--cleanenv", *told[1].split(), "count", "--to", "7"]
    by_hand = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert "'--to', '7'] greeting good day" in by_hand.stdout, by_hand.stderr


def test_an_export_is_the_very_file_that_was_built_and_a_run_in_it_is_a_run_in_the_image(
    built_project: Path, tmp_path: Path
) -> None:
    manifest = current(Catalog(built_project / "catalog"))
    file = exported(built_project, tmp_path / "tutorial2.sif")
    assert sha256_of(file) == manifest.whole_sha256
    assert sif.content_digest(file) == manifest.content_sha256

    file.write_text("mine")
    refused = harness(built_project, "export", "2", "-o", str(file))
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert file.read_text() == "mine"
    stranger = {KEY_VARIABLE: str(signing_key({"XDG_CONFIG_HOME": str(tmp_path / "stranger")}).path)}
    forced = harness(built_project, "export", "2", "-o", str(file), "--force", env=stranger)
    assert forced.returncode == 0, forced.stderr
    assert sha256_of(file) == manifest.whole_sha256  # whoever exports it
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["tutorial2.sif"]

    done = job(built_project, IMAGE=str(file))
    assert done.returncode == 0, done.stderr
    folder = run_folder(built_project, done)
    checked = harness(built_project, "check", "--run", str(folder))
    assert checked.returncode == 0, checked.stdout
    shown = harness(built_project, "inspect", str(file)).stdout
    assert f"sha256 {manifest.content_sha256}" in shown
    assert f"sha256 {manifest.content_sha256}" in harness(built_project, "inspect", "2").stdout


def test_an_export_of_a_damaged_image_or_to_nowhere_leaves_nothing(
    built_project: Path, catalog: Catalog, tmp_path: Path
) -> None:
    env = {"CATALOG": str(catalog.root)}
    target = tmp_path / "out" / "t.sif"
    nowhere = harness(built_project, "export", "2", "-o", str(target), env=env)
    assert nowhere.returncode == 2
    assert nowhere.stderr == f"error: {target}: its folder does not exist; run: mkdir -p {target.parent}\n"
    target.parent.mkdir()
    flip(files_of(catalog)[1], 2_000_000)
    damaged = harness(built_project, "export", "2", "-o", str(target), env=env)
    assert damaged.returncode == 1
    assert len(damaged.stderr.strip().splitlines()) == 1
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("leave_bytes", [0, 4096, 20_000_000])
def test_an_export_onto_a_full_disk_leaves_what_was_there(built_project: Path, disk: Path, leave_bytes: int) -> None:
    target = disk / "t.sif"
    target.write_text("mine")
    filler = fill(disk, leave_bytes)
    for arguments in (["--force", "-o", str(target)], ["-o", str(disk / "new.sif")]):
        done = harness(built_project, "export", "2", *arguments)
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith(f"error: {disk}: no space left; free ")
        assert {path.name for path in disk.iterdir()} == {"filler", "t.sif"}
        assert target.read_text() == "mine"
    filler.unlink()
    exported(built_project, disk / "new.sif")


@pytest.mark.parametrize("offset", [0, 2_000_000])
def test_a_damaged_stack_is_replaced_and_every_image_on_it_is_whole_again(
    built_project: Path, catalog: Catalog, offset: int
) -> None:
    env = {"CATALOG": str(catalog.root)}
    before = current(catalog)
    flip(files_of(catalog)[1], offset)
    assert harness(built_project, "catalog", "verify", env=env).returncode == 1
    done = harness(built_project, "build", "2", env=env)
    assert done.returncode == 0, done.stderr
    assert f"{STACK}: note: a damaged stack was replaced, " in done.stderr
    assert current(catalog).sha256 == before.sha256
    checked = harness(built_project, "catalog", "verify", env=env)
    assert checked.returncode == 0, checked.stdout


def test_of_a_damaged_stack_that_another_key_signed_the_images_on_it_are_named(
    built_project: Path, catalog: Catalog, tmp_path: Path
) -> None:
    colleague = signing_key({"XDG_CONFIG_HOME": str(tmp_path / "colleague")})
    trust(colleague.public_pem, catalog.keys, "colleague")
    other = catalog.folder("tutorial3.cpu")
    shutil.copytree(catalog.folder(NAME), other, symlinks=True)
    stack = files_of(catalog)[1]
    flip(stack, 2_000_000)
    env = {"CATALOG": str(catalog.root), KEY_VARIABLE: str(colleague.path)}
    done = harness(built_project, "build", "2", env=env)
    assert done.returncode == 0, done.stderr
    said = f"{stack} is damaged and another key signed it; images on it that must be built again: {NAME}, tutorial3.cpu"
    assert done.stderr.count(said) == 1
    assert stack.exists()
    catalog.verify(current(catalog))


def test_a_catalog_whose_keys_somebody_took_away_trusts_no_builder(
    built_project: Path, catalog: Catalog, tmp_path: Path
) -> None:
    stranger = signing_key({"XDG_CONFIG_HOME": str(tmp_path / "stranger")})
    env = {"CATALOG": str(catalog.root), KEY_VARIABLE: str(stranger.path)}
    for key in catalog.keys.iterdir():
        key.unlink()
    before = current(catalog)
    done = harness(built_project, "build", "2", env=env)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "this catalog holds images and trusts no key" in last
    assert "harness key --trust FILE" in last
    assert list(catalog.keys.iterdir()) == []
    assert current(catalog) == before
    shutil.rmtree(catalog.images)
    founded = harness(built_project, "build", "2", env=env)  # an empty catalog: the first to build founds its trust
    assert founded.returncode == 0, founded.stderr
    assert current(catalog).signed_by == stranger.fingerprint


# --- nothing that was changed ------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 1]))


def places(path: Path) -> Iterator[tuple[str, int]]:
    """A byte of the header, of the first unused descriptor, and in the midst of each object and its descriptor."""
    image = sif.read_sif(path)
    start = image.header.descriptors_offset
    yield "header", 60
    yield "padding", 300
    yield "unused descriptor", start + 585 * (len(image.objects()) + 2)
    for number, descriptor in enumerate(image.objects()):
        yield f"{descriptor.name or hex(descriptor.kind)}: descriptor", start + 585 * number + 30
        yield f"{descriptor.name or hex(descriptor.kind)}: data", descriptor.offset + descriptor.size // 2


def test_every_flipped_byte_is_found_and_the_job_refuses(built_project: Path, catalog: Catalog) -> None:
    engine = find_engine()
    assert list(problems(catalog, NAME, engine, {})) == []
    refused = 0
    for path in files_of(catalog):
        for number, (name, offset) in enumerate(places(path)):
            flip(path, offset)
            found = list(problems(catalog, NAME, engine, {}))
            assert found, f"{path.name}, {name}: not found"
            assert "damaged" in found[0]
            if number % 4 == 0:
                done = job(built_project, CATALOG=str(catalog.root))
                assert done.returncode == 2, f"{path.name}, {name}: it ran"
                assert len(done.stderr.strip().splitlines()) == 1
                assert "is damaged" in done.stderr
                refused += 1
            flip(path, offset)
    assert refused >= 6
    flip(files_of(catalog)[0], 60)
    done = harness(built_project, "catalog", "verify", env={"CATALOG": str(catalog.root)})
    assert done.returncode == 1
    assert f"{NAME}: " in done.stdout


def renamed_to_its_content(catalog: Catalog) -> None:
    """What somebody who may write to the catalog does after changing a layer."""
    old = catalog.version(NAME, current(catalog).sha256)
    sha256 = sha256_of(old / "layer.sif")
    data = json.loads((old / "manifest.json").read_text())
    write_json(old / "manifest.json", {**data, "sha256": sha256})
    old.rename(old.with_name(sha256))
    catalog.flip(NAME, sha256)


def test_a_layer_that_was_changed_and_renamed_has_no_valid_signature(built_project: Path, catalog: Catalog) -> None:
    layer, _ = files_of(catalog)
    flip(layer, sif.read_sif(layer).objects(sif.PARTITION)[0].offset + 1000)
    renamed_to_its_content(catalog)
    done = job(built_project, CATALOG=str(catalog.root))
    assert done.returncode == 2
    assert "was changed after it was signed" in done.stderr
    assert "ALLOW_UNSIGNED=1" in done.stderr
    assert "changed after it was signed" in next(problems(catalog, NAME, find_engine(), {}))


def test_another_signed_stack_cannot_be_put_below_a_layer(built_project: Path, catalog: Catalog) -> None:
    _, stack = files_of(catalog)
    other = stack.with_name("other.sif")
    shutil.copyfile(stack, other)
    descriptor = sif.read_sif(other).objects(sif.SIGNATURE)[0]
    engine = find_engine()
    subprocess.run([engine.path, "sif", "del", str(descriptor.object_id), other], check=True, capture_output=True)
    flip(other, sif.read_sif(other).objects(sif.PARTITION)[0].offset + 1_000_000)
    sif.normalise(other, 0)
    sign(engine, other, signing_key(os.environ))
    verify(engine, other, trusted_keys(catalog.keys))  # by itself it is as good as any
    link = catalog.version(NAME, current(catalog).sha256) / "stack.sif"
    link.unlink()
    link.symlink_to(other)
    done = job(built_project, CATALOG=str(catalog.root))
    assert done.returncode == 2
    assert "not the stack of" in done.stderr
    assert "does not lead to" in next(problems(catalog, NAME, engine, {}))


def test_parts_of_a_key_that_is_not_trusted_any_more_are_refused(
    built_project: Path, catalog: Catalog, tmp_path: Path
) -> None:
    stranger = signing_key({"XDG_CONFIG_HOME": str(tmp_path / "stranger")})
    for key in catalog.keys.iterdir():
        key.unlink()
    trust(stranger.public_pem, catalog.keys, "stranger")
    done = job(built_project, CATALOG=str(catalog.root))
    assert done.returncode == 2
    assert "was not signed by a key in" in done.stderr
    assert "ALLOW_UNSIGNED=1" in done.stderr
    assert "not trusted" in next(problems(catalog, NAME, find_engine(), {}))
    allowed = job(built_project, CATALOG=str(catalog.root), ALLOW_UNSIGNED="1")
    assert allowed.returncode == 0, allowed.stderr


def test_a_manifest_that_says_another_thing_than_the_signed_image_is_found(catalog: Catalog) -> None:
    path = catalog.manifest_file(NAME, current(catalog).sha256)
    write_json(path, {**json.loads(path.read_text()), "definition_sha256": "0" * 64})
    assert "the manifest says another thing" in next(problems(catalog, NAME, find_engine(), {}))
    path.write_text("{")
    assert "broken manifest" in next(problems(catalog, NAME, find_engine(), {}))


# --- publishing --------------------------------------------------------------------------------

PUBLISH = """
import itertools, pathlib, sys
from harness.catalog.catalog import Catalog
from harness.catalog.manifest import Manifest
from harness.files import sha256_of
catalog, pattern, number, count = Catalog(pathlib.Path(sys.argv[1])), *sys.argv[2:]
pattern = Manifest.model_validate_json(pattern)
file = catalog.root / f"written-by-{number}"
for turn in range(int(count)) if int(count) else itertools.count():
    with catalog.holding(pattern.name, lambda line: None) as held:
        catalog.sweep(catalog.leftovers(pattern.name), lambda line: None)
        file.write_bytes(f"{number} {turn} ".encode() * 20_000)
        built_at = f"{turn:08}"
        manifest = pattern.model_copy(update={"sha256": sha256_of(file), "built_at": built_at})
        catalog.publish(file, manifest, held.check)
    print(turn, flush=True)
"""

READ = """
import hashlib, json, pathlib, sys
link, stop = map(pathlib.Path, sys.argv[1:])
reads, seen = 0, set()
while not stop.exists():
    folder = link.resolve(strict=True)
    layer = hashlib.sha256((folder / "layer.sif").read_bytes()).hexdigest()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert folder.name == layer == manifest["sha256"], folder
    assert (folder / "stack.sif").stat().st_size == manifest["stack_image"]["bytes"]
    assert hashlib.sha256((link / "layer.sif").read_bytes()).hexdigest()
    seen.add(layer)
    reads += 1
print(reads, len(seen))
"""


def publisher(catalog: Catalog, number: int, count: int) -> subprocess.Popen[str]:
    pattern = current(catalog).model_dump_json()
    command = [sys.executable, "-c", PUBLISH, str(catalog.root), pattern, str(number), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_polling_reader_never_misses_an_image_or_sees_half_of_one(catalog: Catalog, tmp_path: Path) -> None:
    """Two processes publish 60 images each while two others read what is current, all the time."""
    stop = tmp_path / "stop"
    command = [sys.executable, "-c", READ, str(catalog.current_link(NAME)), str(stop)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    writers = [publisher(catalog, number, 60) for number in range(2)]
    assert [writer.wait() for writer in writers if writer.communicate()] == [0, 0]
    stop.touch()
    for reader in readers:
        output, errors = reader.communicate()
        assert reader.returncode == 0, errors
        reads, seen = map(int, output.split())
        assert reads > 20
        assert seen > 5
    assert len(catalog.versions(NAME)) == 121
    assert catalog.leftovers(NAME) == []


def test_a_publisher_killed_at_any_moment_leaves_the_catalog_whole(catalog: Catalog) -> None:
    moments = random.Random(7)
    for _ in range(12):
        process = publisher(catalog, 0, 0)
        assert process.stdout is not None
        process.stdout.readline()  # it works; what follows is killed anywhere
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
        process.communicate()
        catalog.verify(current(catalog))
        for manifest in catalog.versions(NAME):
            assert catalog.files(manifest).main.stat().st_size > 0
    assert publisher(catalog, 1, 1).wait() == 0
    assert catalog.leftovers(NAME) == []


# --- old images --------------------------------------------------------------------------------


def publish_another(catalog: Catalog, content: str, built_at: str, stack: str | None = None) -> Manifest:
    """An image like the current one, with other bytes."""
    file = catalog.root / "another"
    file.write_text(content)
    oldest = catalog.versions(NAME)[-1]
    manifest = oldest.model_copy(update={"sha256": sha256_of(file), "built_at": built_at})
    if stack is not None:
        assert manifest.stack_image is not None
        other = catalog.stacks / STACK / "aside"
        other.write_text(stack)
        known = manifest.stack_image.model_copy(update={"sha256": sha256_of(other), "bytes": len(stack)})
        catalog.publish_stack(other, known)
        manifest = manifest.model_copy(update={"stack_image": known})
    catalog.publish(file, manifest)
    return manifest


def test_old_images_go_and_what_somebody_needs_stays(built_project: Path, catalog: Catalog, tmp_path: Path) -> None:
    env = {"CATALOG": str(catalog.root)}
    oldest = current(catalog)
    in_use = publish_another(catalog, "in use", "2999-01-01", stack="of the one in use")
    gone = publish_another(catalog, "gone", "2999-01-02", stack="of nobody left")
    kept = publish_another(catalog, "kept", "2999-01-03")
    newest = publish_another(catalog, "newest", "2999-01-04")
    catalog.flip(NAME, oldest.sha256)
    run = built_project / "runs/unfinished"
    write_json(run / "ledger.json", {"tutorial": "xscow-2", "image_sha256": in_use.sha256})
    try:
        before = sorted(catalog.root.rglob("*.sif"))
        dry = harness(built_project, "catalog", "gc", "--dry-run", env=env)
        assert dry.returncode == 0, dry.stderr
        assert sorted(catalog.root.rglob("*.sif")) == before
        done = harness(built_project, "catalog", "gc", env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[:-1] == dry.stdout.splitlines()[:-1]
        left = {manifest.sha256 for manifest in catalog.versions(NAME)}
        assert left == {m.sha256 for m in (oldest, in_use, kept, newest)}
        assert gone.stack_image is not None
        assert not catalog.stack_file(STACK, gone.stack_image.sha256).exists()
        for manifest in (oldest, in_use):
            assert catalog.files(manifest).main.is_file()
            stack = catalog.files(manifest).stack
            assert stack is not None
            assert stack.exists()
        # The run has ended: nothing holds its image any more.
        (run / "exit_code").write_text("0\n")
        assert harness(built_project, "catalog", "gc", "--keep", "1", env=env).returncode == 0
        assert {manifest.sha256 for manifest in catalog.versions(NAME)} == {oldest.sha256, newest.sha256}
        assert len(list(catalog.stacks.rglob("*.sif"))) == 1
    finally:
        shutil.rmtree(run)


def test_rolling_back_makes_the_image_before_current_and_refuses_a_damaged_one(
    built_project: Path, catalog: Catalog
) -> None:
    env = {"CATALOG": str(catalog.root)}
    first = current(catalog)
    second = publish_another(catalog, "second", "2999-01-01")
    third = publish_another(catalog, "third", "2999-01-02")
    assert harness(built_project, "catalog", "rollback", "2", env=env).returncode == 0
    assert current(catalog) == second
    assert harness(built_project, "catalog", "rollback", NAME, "--to", third.sha256[:8], env=env).returncode == 0
    assert current(catalog) == third
    flip(catalog.files(second).main, 0)
    damaged = harness(built_project, "catalog", "rollback", "2", env=env)
    assert damaged.returncode == 1
    assert "damaged" in damaged.stderr
    assert current(catalog) == third
    assert harness(built_project, "catalog", "rollback", "2", "--to", first.sha256, env=env).returncode == 0
    nothing = harness(built_project, "catalog", "rollback", "2", env=env)
    assert nothing.returncode == 2
    assert "no older image" in nothing.stderr
    unknown = harness(built_project, "catalog", "rollback", "nonsense", env=env)
    assert unknown.returncode == 2
    assert NAME in unknown.stderr


def test_a_broken_manifest_hides_no_other_image_and_nothing_is_removed_by_mistake(
    built_project: Path, catalog: Catalog
) -> None:
    env = {"CATALOG": str(catalog.root)}
    first = current(catalog)
    second = publish_another(catalog, "second", "2999-01-01", stack="of the second")
    third = publish_another(catalog, "third", "2999-01-02")
    assert second.stack_image is not None
    catalog.manifest_file(NAME, second.sha256).write_text("{")
    assert catalog.versions(NAME) == [third, first]
    listed = harness(built_project, "catalog", "list", env=env)
    assert listed.returncode == 0, listed.stderr
    assert re.search(rf"^  {NAME}  {second.sha256[:12]}  broken: .*broken manifest: ", listed.stdout, re.MULTILINE)
    assert f"* {NAME}  {third.sha256[:12]}" in listed.stdout

    collected = harness(built_project, "catalog", "gc", "--keep", "1", env=env)
    assert collected.returncode == 0, collected.stderr
    assert "note: it stays, with its stack: " in collected.stderr
    assert catalog.versions(NAME)[0] == third
    assert catalog.files(second).main.is_file()
    assert catalog.stack_file(STACK, second.stack_image.sha256).is_file()

    # Where even the stack that it stands on is unknown, all of them stay.
    nobodys = publish_another(catalog, "fourth", "2999-01-03", stack="of the fourth")
    assert nobodys.stack_image is not None
    catalog.remove(NAME, nobodys.sha256)
    catalog.flip(NAME, second.sha256)
    (catalog.version(NAME, second.sha256) / "stack.sif").unlink()
    assert harness(built_project, "catalog", "gc", "--keep", "1", env=env).returncode == 0
    assert catalog.stack_file(STACK, nobodys.stack_image.sha256).is_file()
    assert catalog.files(second).main.is_file()  # it is current
    named = harness(built_project, "list", env=env | {"COLUMNS": "200"})
    assert named.returncode == 0, named.stderr
    assert "cpu (broken: build it again)" in named.stdout

    back = harness(built_project, "catalog", "rollback", "2", env=env)
    assert back.returncode == 0, back.stderr
    assert current(catalog) == third


# --- parts -------------------------------------------------------------------------------------


def test_a_layer_does_not_join_another_stack(built_project: Path, catalog: Catalog, tmp_path: Path) -> None:
    layer, stack = files_of(catalog)
    assert read_reference(stack) is None
    reference = read_reference(main_file(built_project / "catalog", NAME))
    assert reference is not None
    assert reference.stack_sha256 == stack.stem
    with pytest.raises(sif.SifError, match="no tutorial's layer"):
        join(stack, stack, tmp_path / "out.sif")
    flip(stack, sif.read_sif(stack).objects(sif.PARTITION)[0].offset)
    with pytest.raises(sif.SifError, match="layer and stack give"):
        join(layer, stack, tmp_path / "out.sif")
    assert not (tmp_path / "out.sif").exists()
    assert ImageFiles(Path("a")).engine_arguments == ["a"]
