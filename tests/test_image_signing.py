"""Signatures: nothing that was changed, by anybody, in any byte, is run or published."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_project import exported, harness

from harness.catalog.catalog import Catalog
from harness.errors import UserError
from harness.files import sha256_of
from harness.image import sif
from harness.image.engine import Engine, find_engine
from harness.image.keys import KEY_VARIABLE, SigningKey, fingerprint_of, signing_key, trust, trusted_keys
from harness.image.sign import SignatureError, seal, sign, verify

NAME = "tutorial2.cpu"
CPU_JOB = "jobs/tutorial2.apptainer.cpu.job"
# One byte of each region: where it is, and whether `verify` notices (else only the sha256 that names the image does).
HEADER_FIELDS = {
    "launch script": (3, True),
    "magic": (33, True),
    "version": (43, True),
    "architecture": (46, False),
    "image id": (50, True),
    "created": (64, False),
    "modified": (72, False),
    "descriptors free": (80, False),
    "descriptors total": (88, True),
    "descriptors offset": (96, True),
    "descriptors bytes": (104, False),
    "data offset": (112, False),
    "data bytes": (120, False),
    "after the header": (200, False),
}
DESCRIPTOR_FIELDS = {
    "type": (0, True),
    "in use": (4, True),
    "id": (5, True),
    "group": (9, True),
    "link": (13, True),
    "offset": (17, True),
    "bytes": (25, True),
    "bytes with padding": (33, False),
    "created": (41, True),
    "modified": (49, False),
    "user": (57, True),
    "owner's group": (65, True),
    "name": (75, True),
    "extra": (203, True),
}
UNNOTICED_IN_A_SIGNATURE = {"id", "created", "user", "owner's group", "name"}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return find_engine()


@pytest.fixture
def image(built_project: Path, tmp_path: Path) -> Path:
    """A copy of a published image, under a name that is no digest."""
    copy = tmp_path / "copy.sif"
    return exported(built_project, copy)


@pytest.fixture
def unsigned(image: Path) -> Path:
    """A copy of a published image without its signature."""
    program = shutil.which("apptainer") or "singularity"
    for descriptor in sif.read_sif(image).objects(sif.SIGNATURE):
        subprocess.run([program, "sif", "del", str(descriptor.object_id), str(image)], check=True, capture_output=True)
    return image


@pytest.fixture
def stranger(tmp_path: Path) -> SigningKey:
    return signing_key({"XDG_CONFIG_HOME": str(tmp_path / "stranger")})


def keys_of(project: Path):  # type: ignore[no-untyped-def]
    return trusted_keys(Catalog(project / "catalog").keys)


def regions(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Name, offset, and whether the signature covers it, for one byte of each region of an image."""
    for name, (offset, noticed) in HEADER_FIELDS.items():
        yield f"header: {name}", offset, noticed
    image = sif.read_sif(path)
    start = image.header.descriptors_offset
    for index, descriptor in enumerate(image.objects()):
        what = f"object {descriptor.object_id} ({descriptor.kind:#x})"
        is_signature = descriptor.kind == sif.SIGNATURE
        for name, (offset, noticed) in DESCRIPTOR_FIELDS.items():
            expected = noticed and not (is_signature and name in UNNOTICED_IN_A_SIGNATURE)
            yield f"{what}: {name}", start + 585 * index + offset, expected
        yield f"{what}: first byte", descriptor.offset, True
        yield f"{what}: middle", descriptor.offset + descriptor.size // 2, True
        yield f"{what}: last byte", descriptor.end - 1, True
    yield "unused descriptor", start + 585 * (len(image.objects()) + 3), False
    partition = image.objects(sif.PARTITION)[0]
    yield "padding", partition.offset - 1, False


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 1]))


@pytest.mark.apptainer
def test_any_flipped_byte_is_noticed_by_the_signature_or_by_the_digest(
    built_project: Path, image: Path, engine: Engine
) -> None:
    keys = keys_of(built_project)
    digest = sha256_of(image)
    verify(engine, image, keys)
    wrong = []
    for name, offset, expected in list(regions(image)):
        flip(image, offset)
        try:
            verify(engine, image, keys)
            noticed = False
        except SignatureError:
            noticed = True
        if noticed != expected:
            wrong.append((name, noticed))
        if not noticed and sha256_of(image) == digest:
            wrong.append((name, "not even by the digest"))
        flip(image, offset)
    assert wrong == []
    assert sha256_of(image) == digest


@pytest.mark.apptainer
def test_what_is_wrong_with_a_signature_is_said(
    built_project: Path, image: Path, engine: Engine, stranger: SigningKey, tmp_path: Path
) -> None:
    keys = keys_of(built_project)
    flip(image, sif.read_sif(image).objects(sif.PARTITION)[0].offset + 5000)
    with pytest.raises(SignatureError, match="changed after it was signed"):
        verify(engine, image, keys)
    other = trust(stranger.public_pem, tmp_path / "keys", "stranger")
    with pytest.raises(SignatureError, match=f"not trusted .{re.escape(keys[0].fingerprint)}"):
        verify(engine, image, [other])
    with pytest.raises(SignatureError, match="not trusted"):
        verify(engine, image, [])
    image.write_bytes(image.read_bytes()[:5000])
    with pytest.raises(SignatureError, match="ends inside its descriptors"):
        verify(engine, image, keys)


@pytest.mark.apptainer
def test_an_object_that_is_added_after_signing_is_refused(built_project: Path, image: Path, engine: Engine) -> None:
    extra = image.with_name("extra.json")
    extra.write_text("{}")
    for group in ([], ["--groupid", "1"], ["--groupid", "2"]):
        copy = shutil.copyfile(image, image.with_name("added.sif"))
        command = [engine.path, "sif", "add", "--datatype", "6", *group, copy, extra]
        subprocess.run(command, check=True, capture_output=True)
        with pytest.raises(SignatureError):
            verify(engine, copy, keys_of(built_project))


@pytest.mark.apptainer
def test_the_manifest_names_the_key_and_the_content(built_project: Path, image: Path) -> None:
    manifest = Catalog(built_project / "catalog").current(NAME)
    assert manifest is not None
    key = signing_key(os.environ)
    assert manifest.signed_by == key.fingerprint
    assert sif.signer_ids(image) == [key.fingerprint]
    assert manifest.content_sha256 == sif.content_digest(image) != manifest.whole_sha256 == sha256_of(image)


@pytest.mark.apptainer
def test_equal_content_gives_equal_files_and_another_key_changes_only_the_signature(
    unsigned: Path, engine: Engine, stranger: SigningKey
) -> None:
    epoch = 1793491200
    files = [shutil.copyfile(unsigned, unsigned.with_name(f"{i}.sif")) for i in range(3)]
    for path, key in zip(files, (signing_key(os.environ), signing_key(os.environ), stranger), strict=True):
        sif.normalise(path, epoch)
        sign(engine, path, key)
        sif.normalise(path, epoch)
    assert sha256_of(files[0]) == sha256_of(files[1]) != sha256_of(files[2])
    assert len({sif.content_digest(path) for path in files}) == 1


@pytest.mark.apptainer
def test_an_image_signed_by_its_digests_is_the_file_that_the_engine_signs(
    built_project: Path, unsigned: Path, engine: Engine
) -> None:
    manifest = Catalog(built_project / "catalog").current(NAME)
    assert manifest is not None
    assert sha256_of(unsigned) != manifest.whole_sha256
    seal(engine, unsigned, signing_key(os.environ), keys_of(built_project))
    assert sha256_of(unsigned) == manifest.whole_sha256
    assert sif.content_digest(unsigned) == manifest.content_sha256


# --- the job ----------------------------------------------------------------------------------


def job(root: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "CATALOG"))}
    environment = {**clean, "PRESET": "smoke", **env}
    return subprocess.run(
        ["bash", CPU_JOB], cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def run_folder(root: Path, done: subprocess.CompletedProcess[str]) -> Path:
    match = re.search(r"^run: (runs/\S+)$", done.stdout, re.MULTILINE)
    assert match, done.stderr
    return root / match[1]


@pytest.mark.apptainer
def test_a_job_records_the_key_and_refuses_an_unsigned_image_in_one_line(built_project: Path, unsigned: Path) -> None:
    done = job(built_project)
    assert done.returncode == 0, done.stderr
    record = json.loads((run_folder(built_project, done) / "job.json").read_text())
    assert record["signed_by"] == keys_of(built_project)[0].path.stem
    assert record["signed_by"].startswith("SHA256-")

    done = job(built_project, IMAGE=str(unsigned))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "is not signed" in done.stderr
    assert "ALLOW_UNSIGNED=1" in done.stderr


@pytest.mark.apptainer
def test_an_image_allowed_by_hand_runs_and_is_not_taken_for_a_published_one(
    built_project: Path, unsigned: Path
) -> None:
    done = job(built_project, IMAGE=str(unsigned), ALLOW_UNSIGNED="1")
    assert done.returncode == 0, done.stderr
    assert "nobody vouches" in done.stdout
    folder = run_folder(built_project, done)
    assert json.loads((folder / "job.json").read_text())["signed_by"] == ""
    checked = harness(built_project, "check", "--run", str(folder))
    assert checked.returncode == 1
    assert "image" in checked.stdout


@pytest.mark.apptainer
@pytest.mark.parametrize(
    ("damage", "words"),
    [("flip", "was changed after it was signed"), ("key", "was not signed by a key in"), ("no keys", "no key in")],
)
def test_a_job_refuses_a_changed_image_and_an_unknown_key(
    built_project: Path, image: Path, stranger: SigningKey, tmp_path: Path, damage: str, words: str
) -> None:
    catalog = tmp_path / "catalog"
    if damage == "flip":
        flip(image, sif.read_sif(image).objects(sif.PARTITION)[0].offset + 5000)
        trust(stranger.public_pem, catalog / "keys", "stranger")  # a second key does not hide the reason
        trust(signing_key(os.environ).public_pem, catalog / "keys", "ours")
    elif damage == "key":
        trust(stranger.public_pem, catalog / "keys", "stranger")
    done = job(built_project, IMAGE=str(image), CATALOG=str(catalog))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr


# --- keys -------------------------------------------------------------------------------------


@pytest.mark.apptainer
def test_a_catalog_that_does_not_trust_the_builder_publishes_nothing(project: Path, stranger: SigningKey) -> None:
    catalog = Catalog(project / "catalog")
    trust(stranger.public_pem, catalog.keys, "stranger")
    done = harness(project, "build", "2")
    assert done.returncode == 2
    assert "does not trust your key" in done.stderr.strip().splitlines()[-1]
    assert catalog.current(NAME) is None
    assert catalog.leftovers(NAME) == []


def test_one_command_hands_a_key_to_a_catalog(project: Path, tmp_path: Path) -> None:
    public = harness(project, "key", "--public")
    assert public.returncode == 0, public.stderr
    handed = tmp_path / "alice.pem"
    handed.write_text(public.stdout)
    assert harness(project, "key", "--trust", str(handed)).returncode == 0
    shown = harness(project, "key").stdout
    fingerprint = signing_key(os.environ).fingerprint
    assert re.findall(rf"^(yours|trusted) +{re.escape(fingerprint)}", shown, re.MULTILINE) == ["yours", "trusted"]
    (tmp_path / "no-key.pem").write_text("hello")
    refused = harness(project, "key", "--trust", str(tmp_path / "no-key.pem"))
    assert refused.returncode == 2
    assert "no public ed25519 key" in refused.stderr


def test_a_key_is_made_once_private_and_only_if_none_is_named(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: signing_key(environment), range(8)))
    assert len({key.fingerprint for key in made}) == 1
    assert stat.S_IMODE(made[0].path.stat().st_mode) == 0o600
    assert [path.name for path in made[0].path.parent.iterdir()] == [made[0].path.name]

    with pytest.raises(UserError, match="not there"):
        signing_key({KEY_VARIABLE: str(tmp_path / "none.pem")})
    made[0].path.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        signing_key(environment)


@pytest.mark.parametrize(
    "command",
    [
        ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
        ["openssl", "genpkey", "-algorithm", "ed25519", "-aes-128-cbc", "-pass", "pass:secret"],
        ["openssl", "rand", "-hex", "32"],
    ],
)
def test_a_key_that_cannot_sign_unattended_and_equally_is_refused(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    path.chmod(0o600)
    with pytest.raises(UserError, match=r"no public ed25519 key|no private key"):
        signing_key({KEY_VARIABLE: str(path)})


def test_a_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path: Path) -> None:
    """The first test key of RFC 8032, section 7.1; the fingerprint is what ssh-keygen -l says of it."""
    body = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    pem = f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"
    assert fingerprint_of(pem, "here") == "SHA256:bbXpuKG6zhzdmnxq256TlqzFBzRl2f6OOg722cYNbU8"


# --- the format -------------------------------------------------------------------------------


@pytest.mark.apptainer
def test_half_an_image_is_an_error_wherever_it_ends(image: Path) -> None:
    data = image.read_bytes()
    header = sif.read_sif(image).header
    table_end = header.descriptors_offset + header.descriptors_bytes
    for length in (0, 1, 31, 42, 127, 128, 4095, 4096, 5000, table_end - 1, table_end, table_end + 10, len(data) - 1):
        image.write_bytes(data[:length])
        before = image.read_bytes()
        for function in (sif.read_sif, sif.signer_ids, sif.content_digest, lambda p: sif.normalise(p, 0)):
            with pytest.raises(sif.SifError, match=re.escape(str(image))):
                function(image)
        assert image.read_bytes() == before


@pytest.mark.apptainer
def test_an_image_signed_before_it_was_normalised_is_left_alone(image: Path) -> None:
    before = image.read_bytes()
    with pytest.raises(sif.SifError, match="normalise first"):
        sif.normalise(image, 1)
    assert image.read_bytes() == before
