"""What an image says of itself: lock, bill of materials, and whether it can be built again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from tiny_project import exported, harness, main_file

from harness.catalog.catalog import Catalog
from harness.definition.tutorial_image import definition_key, tutorial_definition
from harness.errors import HarnessError
from harness.files import sha256_of
from harness.image.base import BaseRecord
from harness.image.compare import compare_trees, differences
from harness.image.contents import base_of, read_lock, read_sbom
from harness.image.made_from import SourceFile, changed_files, find_revision, made_from, write_project
from harness.image.packages import Package, parse_packages
from harness.image.sbom import package_url, spdx_document
from harness.project import Project
from harness.tutorial import load_tutorial

NAME = "tutorial2.cpu"


@pytest.fixture
def image(built_project: Path) -> Path:
    return main_file(built_project / "catalog", NAME)


@pytest.mark.apptainer
def test_the_lock_inside_says_what_the_image_was_made_from(built_project: Path, image: Path) -> None:
    manifest = Catalog(built_project / "catalog").current(NAME)
    assert manifest is not None
    lock = read_lock(image)
    assert (lock.name, lock.tutorial, lock.stack, lock.variant) == (NAME, "xscow-2", "tiny", "cpu")
    assert lock.definition_sha256 == manifest.definition_sha256
    assert lock.base["digest"] == manifest.base.digest
    assert set(lock.tools) == {"mksquashfs", "tutorial-harness", manifest.builder.split()[0]}
    assert "unknown" not in lock.tools.values()
    if lock.base["origin"] == "bootstrapped":
        assert lock.base["details"]["packages"]["dpkg"]


@pytest.mark.apptainer
def test_the_bill_of_materials_lists_the_packages_and_is_valid_spdx(image: Path) -> None:
    sbom = read_sbom(image)
    packages = {p["name"]: p for p in sbom["packages"]}
    assert packages["python3"]["versionInfo"].startswith("3.11")
    assert packages["dpkg"]["externalRefs"][0]["referenceLocator"].startswith("pkg:deb/debian/dpkg@1.21")
    check_spdx(sbom)


def check_spdx(document: object) -> None:
    """What the SPDX 2.3 specification demands of the parts we write, and what the reference parser reads from them."""
    assert isinstance(document, dict)
    identifiers = [document["SPDXID"], *(p["SPDXID"] for p in document["packages"])]
    assert len(set(identifiers)) == len(identifiers)
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", identifier) for identifier in identifiers)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["creationInfo"]["created"])
    assert document["relationships"][0]["relationshipType"] == "DESCRIBES"
    assert {r["relatedSpdxElement"] for r in document["relationships"]} == set(identifiers[1:])
    assert validate_full_spdx_document(JsonLikeDictParser().parse(document)) == []


def test_packages_are_read_from_what_an_image_prints() -> None:
    text = (
        "distribution: ubuntu\n--end-of-record--\n"
        "Package: tar\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.34+x\nDescription: a\n b\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n--end-of-record--\n"
        "/usr/lib/python3/dist-packages/six-1.egg-info/PKG-INFO\n--end-of-record--\n"
        "/v/Scikit_Learn-1.5.dist-info/METADATA\nMetadata-Version: 2.4\nName: Scikit_Learn\nVersion: 1.5\n"
        "License-Expression: BSD-3-Clause\n--brought--\nScikit_Learn-1.5.dist-info/METADATA,sha256=x,1\n"
        "sklearn/_vendor/inner-3.dist-info/METADATA,sha256=x,1\n--end-of-record--\n"
        "/v/sklearn/_vendor/inner-3.dist-info/METADATA\nName: inner\nVersion: 3\n--brought--\n--end-of-record--\n"
        "/v/old.egg-info/PKG-INFO\nMetadata-Version: 2.1\nName: old\nVersion: 2\nLicense: some words--brought--\n"
        "--end-of-record--\n"
        "/usr/lib/python3/dist-packages/six-1.egg-info/PKG-INFO\nName: six\nVersion: 1\n--brought--\n"
        "--end-of-record--\n"
    )
    packages = parse_packages(text)
    assert packages == [
        Package("deb", "tar", "1:1.34+x", "amd64", "ubuntu"),
        Package("pypi", "Scikit_Learn", "1.5", licence="BSD-3-Clause"),
        Package("pypi", "inner", "3", part_of="Scikit_Learn"),
        Package("pypi", "old", "2"),
        Package("pypi", "six", "1", part_of="(debian)"),
    ]
    assert package_url(packages[0]) == "pkg:deb/ubuntu/tar@1:1.34%2Bx?arch=amd64"
    assert package_url(packages[1]) == "pkg:pypi/scikit-learn@1.5"
    check_spdx(document := spdx_document("name", "0" * 64, packages, 0))
    assert [p["licenseDeclared"] for p in document["packages"]] == [
        "NOASSERTION",
        "NOASSERTION",
        "BSD-3-Clause",
        "NOASSERTION",
        "NOASSERTION",
        "NOASSERTION",
    ]
    assert [p.get("sourceInfo") for p in document["packages"]] == [
        None,
        None,
        "installed itself",
        "part of the Python package Scikit_Learn",
        "installed itself",
        "part of a Debian package",
    ]
    check_spdx(spdx_document("name", "0" * 64, [], 0))


def test_a_lock_does_not_depend_on_which_registry_answered() -> None:
    records = [
        BaseRecord("debian", "sha256:1", "registry", details={"registry": registry})
        for registry in ("docker.io", "mirror.example")
    ]
    assert base_of(records[0]) == base_of(records[1])


@pytest.mark.apptainer
def test_inspect_reads_well_and_fails_for_an_image_that_nobody_trusted_signed(
    built_project: Path, image: Path, tmp_path: Path
) -> None:
    shown = harness(built_project, "inspect", "2")
    assert shown.returncode == 0, shown.stderr
    rows = dict(line.split(None, 1) for line in shown.stdout.splitlines())
    assert rows["signature"].startswith("good, SHA256:")
    assert "debian:bookworm-slim sha256:" in rows["base"]
    assert "pkg:deb/debian/tar@" in harness(built_project, "inspect", str(image), "--packages").stdout

    copy = Path(shutil.copyfile(image, tmp_path / "copy.sif"))
    other = harness(built_project, "inspect", str(copy), env={"CATALOG": str(tmp_path / "nobody")})
    assert other.returncode == 1
    assert "NOT TRUSTED" in other.stdout
    missing = harness(built_project, "inspect", "nowhere.sif")
    assert missing.returncode == 2
    copy.write_bytes(copy.read_bytes()[:100])
    assert harness(built_project, "inspect", str(copy)).stderr.count("\n") == 1


@pytest.mark.apptainer
def test_rebuild_gives_the_same_image_or_says_which_files_differ(built_project: Path, cache: Path) -> None:
    environment = {"HARNESS_CACHE": str(cache)}
    again = harness(built_project, "rebuild", "--verify", "2", env=environment)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "byte for byte" in again.stdout
    assert harness(built_project, "rebuild", "2", env=environment).returncode == 2


@pytest.mark.apptainer
def test_rebuild_names_the_file_that_differs(project: Path, built_project: Path, tmp_path: Path) -> None:
    """The stack's packages come from a mirror that may move: here a file that a build makes up."""
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(dockerfile.read_text() + "RUN cat /proc/sys/kernel/random/uuid >/opt/stack/id\n")
    assert harness(project, "build", "2").returncode == 0
    # What the checkout holds today is only news: the image is built again from the files inside it.
    dockerfile.write_text(dockerfile.read_text() + "RUN echo later >/opt/stack/later\n")
    again = harness(project, "rebuild", "--verify", "2")
    assert again.returncode == 1
    assert again.stdout.splitlines() == ["opt/stack/id: content"]
    assert "not what tutorial2.cpu was made from (containers/tiny/Dockerfile.cpu); no commit here" in again.stderr
    assert "gave another image" in again.stderr.strip().splitlines()[-1]

    built = exported(project, tmp_path / "built.sif")
    assert differences(built, built, tmp_path) == []
    found = differences(exported(built_project, tmp_path / "other.sif"), built, tmp_path)
    assert "opt/stack/id: only in the second" in found
    assert "definition: content" in found


DEMANDING = """\
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim
FROM ${BASE_IMAGE} AS make
COPY ["early file.txt", "/early/"]
FROM ${BASE_IMAGE}
ENV GREETING="good day" PATH=/opt/stack/bin:$PATH
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends python3 >/dev/null \\
 && rm -rf /var/lib/apt/lists/* && ln -s python3 /usr/bin/python
COPY --from=make /early /early
COPY folder /folder
COPY current /current
COPY requirements.lock /opt/stack/requirements.lock
"""


def demand_much(project: Path) -> None:
    """A stack whose earlier stage copies a file with a blank in its name, with links in a folder and to one."""
    stack = project / "containers/tiny"
    (stack / "Dockerfile.cpu").write_text(DEMANDING)
    (stack / "early file.txt").write_text("early")
    (stack / "folder").mkdir()
    (stack / "folder/a.txt").write_text("a")
    (stack / "folder/link").symlink_to("a.txt")
    (stack / "folder/out").symlink_to("/nowhere")
    (stack / "version-2").mkdir()
    (stack / "version-2/b.txt").write_text("b")
    (stack / "current").symlink_to("version-2")
    (stack / "nobodys").symlink_to("/somewhere/else")


def test_links_and_what_earlier_stages_copy_are_among_the_files_of_an_image(project: Path, tmp_path: Path) -> None:
    demand_much(project)
    tutorial = load_tutorial(Project(project), "2")
    definition = tutorial_definition(Project(project), tutorial, "cpu")
    files = made_from(Project(project), tutorial, "cpu", definition)
    of_stack = {name.removeprefix("containers/tiny/"): file for name, file in files.items() if "/tiny/" in name}
    links = {name: file.link for name, file in of_stack.items() if file.link is not None}
    assert links == {"folder/link": "a.txt", "folder/out": "/nowhere", "current": "version-2"}
    assert of_stack["early file.txt"].text == "early"
    assert "link" not in of_stack["early file.txt"].model_dump()
    written = {name: SourceFile.model_validate_json(file.model_dump_json()) for name, file in files.items()}
    again = write_project(written, tmp_path / "again")
    assert definition_key(again, tutorial_definition(again, load_tutorial(again, "2"), "cpu")) == definition_key(
        Project(project), definition
    )
    assert changed_files(files, again.root) == changed_files(files, project) == []
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(project), *command], check=True)
    assert find_revision(files, project) is not None
    (project / "containers/tiny/current").unlink()
    (project / "containers/tiny/current").symlink_to("folder")
    assert changed_files(files, project) == ["containers/tiny/current"]


@pytest.mark.apptainer
@pytest.mark.slow
def test_an_image_with_links_and_an_earlier_stage_is_built_again_from_what_is_inside(project: Path) -> None:
    demand_much(project)
    built = harness(project, "build", "2")
    assert built.returncode == 0, built.stderr
    again = harness(project, "rebuild", "--verify", "2")
    assert again.returncode == 0, again.stdout + again.stderr


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    files = {"a": SourceFile(link=str(elsewhere)), "a/b": SourceFile(text="mine")}
    with pytest.raises(HarnessError, match="'a' is a link and a folder"):
        write_project(files, tmp_path / "project")
    assert list(elsewhere.iterdir()) == []


def test_the_files_of_an_image_make_a_project_again_and_are_found_in_the_history(project: Path, tmp_path: Path) -> None:
    tutorial = load_tutorial(Project(project), "2")
    definition = tutorial_definition(Project(project), tutorial, "cpu")
    (project / "containers/tiny/requirements.lock").write_bytes(b"\xff\x00")
    (project / "tutorials/xscow-2/count.py").chmod(0o755)
    files = made_from(Project(project), tutorial, "cpu", definition)
    assert {
        "tutorials/xscow-2/tutorial.toml",
        "containers/tiny/Dockerfile.cpu",
        "harness/runtime/run.py",
    } < files.keys()
    kept = {name: SourceFile.model_validate_json(file.model_dump_json()) for name, file in files.items()}
    again = write_project(kept, tmp_path / "again")
    assert changed_files(files, again.root) == []
    assert (again.root / "containers/tiny/requirements.lock").read_bytes() == b"\xff\x00"
    assert definition_key(again, tutorial_definition(again, load_tutorial(again, "2"), "cpu")) == definition_key(
        Project(project), definition
    )

    assert find_revision(files, project) is None
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(project), *identity, *words], check=True, capture_output=True)
    head = subprocess.run(["git", "-C", str(project), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert find_revision(files, project) == head.stdout.strip()
    (again.root / "containers/tiny/stack.toml").write_text("x")
    assert changed_files(files, again.root) == ["containers/tiny/stack.toml"]
    assert find_revision({**files, "harness/__init__.py": SourceFile(text="other")}, project) is None
    with pytest.raises(HarnessError, match="no path in a checkout"):
        write_project({"../outside": SourceFile(text="")}, tmp_path / "other")


def test_trees_are_compared_by_everything_a_user_can_see(tmp_path: Path) -> None:
    trees = [tmp_path / "a", tmp_path / "b"]
    for tree in trees:
        (tree / "folder").mkdir(parents=True)
        for name in ("same", "content", "mode", "time", "gone"):
            (tree / "folder" / name).write_text("x")
        (tree / "link").symlink_to("one")
        for path in tree.rglob("*"):
            os.utime(path, (1, 1), follow_symlinks=False)
    other = trees[1] / "folder"
    (other / "content").write_text("y")
    os.utime(other / "content", (1, 1))
    (other / "mode").chmod(0o600)
    os.utime(other / "time", (2, 2))
    (other / "gone").unlink()
    os.utime(other, (1, 1))
    (trees[1] / "link").unlink()
    (trees[1] / "link").symlink_to("two")
    os.utime(trees[1] / "link", (1, 1), follow_symlinks=False)
    assert list(compare_trees(*trees)) == [
        "folder/content: content",
        "folder/gone: only in the first",
        "folder/mode: mode",
        "folder/time: modified",
        "link: content",
    ]


@pytest.mark.apptainer
def test_an_image_of_somebody_else_has_no_lock_and_that_is_said(cache: Path, built_project: Path) -> None:
    stage = next((cache / "stages").glob("*.sif"))
    with pytest.raises(HarnessError, match="not built by this project"):
        read_lock(stage)
    assert sha256_of(stage)
    assert json.dumps(read_sbom(main_file(built_project / "catalog", NAME)))
