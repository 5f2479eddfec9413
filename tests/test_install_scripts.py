"""scripts/install-apptainer and scripts/install-packages, without changing the machine that runs the tests.

The decisions are tested with programs that stand in on PATH; reading apt's sources, with the real apt.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
INSTALL_APPTAINER = REPOSITORY / "scripts" / "install-apptainer"
INSTALL_PACKAGES = REPOSITORY / "scripts" / "install-packages"

UBUNTU = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n'
ROCKY = 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n'
DEBIAN = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'

Program = Callable[[str, str], None]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH of its own: what the scripts call, and no container runtime, package manager or registry tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "grep", "head", "sort", "id", "sed", "awk", "mktemp", "rm", "tail", "stat", "touch"):
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return folder


@pytest.fixture
def program(programs: Path) -> Program:
    """Writes a program to that PATH."""

    def write(name: str, script: str) -> None:
        path = programs / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    return write


def run(
    script: Path, *arguments: str, path: Path | None = None, os_release: str = DEBIAN, tmp: Path
) -> tuple[int, str]:
    """Run a script; its exit status and everything it printed."""
    release = tmp / "os-release"
    release.write_text(os_release)
    env = {**os.environ, "OS_RELEASE_FILE": str(release)}
    if path is not None:
        env["PATH"] = str(path)
    done = subprocess.run(
        ["/bin/bash", str(script), *arguments],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("script", [INSTALL_APPTAINER, INSTALL_PACKAGES], ids=lambda path: path.name)
def test_help_has_examples(script: Path, tmp_path: Path) -> None:
    status, text = run(script, "--help", tmp=tmp_path)
    assert status == 0
    assert "Examples:" in text
    assert "Exit status:" in text


@pytest.mark.parametrize("script", [INSTALL_APPTAINER, INSTALL_PACKAGES], ids=lambda path: path.name)
def test_shellcheck(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here (scripts/install-packages test)")
    done = subprocess.run(["shellcheck", str(script)], text=True, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("apptainer", "apptainer version 1.4.5"),
        ("apptainer", "apptainer version 1.3.0-1.el9"),
        ("singularity", "singularity-ce version 4.1.2-jammy"),
        ("singularity", "apptainer version 1.3.6"),
    ],
)
def test_a_runtime_that_is_there_is_used(
    program: Program, programs: Path, tmp_path: Path, name: str, version: str
) -> None:
    program(name, f"echo {version}")
    program("apt-get", f"touch {tmp_path}/apt-was-called")
    status, text = run(INSTALL_APPTAINER, "--check", path=programs, tmp=tmp_path)
    assert status == 0, text
    assert "nothing to install" in text
    assert not (tmp_path / "apt-was-called").exists()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("apptainer", "apptainer version 1.2.5"),
        ("singularity", "singularity version 3.8.7"),
        ("singularity", "singularity-ce version 4.0.3"),
        ("apptainer", "error while loading shared libraries >&2; exit 127 #"),
    ],
)
def test_an_old_or_broken_runtime_is_not_enough(
    program: Program, programs: Path, tmp_path: Path, name: str, version: str
) -> None:
    program(name, f"echo {version}")
    status, text = run(INSTALL_APPTAINER, "--check", path=programs, tmp=tmp_path)
    assert status == 2
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("os_release", "line"),
    [
        (UBUNTU, "add-apt-repository -y ppa:apptainer/ppa && apt-get install -y apptainer"),
        (ROCKY, "dnf install -y epel-release && dnf install -y apptainer"),
        ("ID=fedora\nVERSION_ID=41\n", "dnf install -y apptainer"),
        ("ID=opensuse-leap\nVERSION_ID=15.6\n", "package manager"),
    ],
    ids=["ubuntu", "rocky", "fedora", "other"],
)
def test_other_distributions_get_the_line_to_type(programs: Path, tmp_path: Path, os_release: str, line: str) -> None:
    status, text = run(INSTALL_APPTAINER, path=programs, os_release=os_release, tmp=tmp_path)
    assert status == 2
    assert line in text
    assert len(text.splitlines()) == 1


def test_an_ordinary_user_is_told_what_the_administrator_runs(program: Program, programs: Path, tmp_path: Path) -> None:
    program("id", "echo 1000")
    status, text = run(INSTALL_APPTAINER, path=programs, tmp=tmp_path)
    assert status == 2
    assert text.splitlines() == [
        f"install-apptainer: no apptainer >= 1.3 on this machine; the administrator runs: {INSTALL_APPTAINER}"
    ]


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    assert run(INSTALL_APPTAINER, "--frobnicate", tmp=tmp_path)[0] == 2
    assert run(INSTALL_APPTAINER, "--user", tmp=tmp_path)[0] == 2
    assert run(INSTALL_APPTAINER, "--user", "no-such-user-here", tmp=tmp_path)[0] == 2


def shell_function(call: str, tmp_path: Path, **variables: str) -> str:
    """What a function of install-apptainer prints."""
    script = f'. "{INSTALL_APPTAINER}"; work="{tmp_path}"; {call}'
    env = {**os.environ, **variables}
    return subprocess.run(["/bin/bash", "-c", script], env=env, text=True, check=True, stdout=subprocess.PIPE).stdout


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="reads apt's own configuration")
@pytest.mark.parametrize(
    ("file", "lines", "uris"),
    [
        (
            "deb822.sources",
            [
                "Types: deb deb-src",
                "URIs: http://one.example/debian https://two.example/debian/",
                "Suites: bookworm",
                "Components: main contrib",
            ],
            ["http://one.example/debian", "https://two.example/debian"],
        ),
        (
            "one-line.list",
            [
                "deb [arch=amd64,arm64 trusted=yes] http://one.example/debian bookworm main",
                "deb http://one.example/debian bookworm-updates main",
            ],
            ["http://one.example/debian"],
        ),
        (
            "mirror-list.list",
            ["deb mirror+file:/etc/apt/mirrors/debian.list stable main"],
            ["mirror+file:/etc/apt/mirrors/debian.list"],
        ),
        (
            "no-debian.list",
            ["# deb http://one.example/debian bookworm main", "deb http://vendor.example/apt stable nightly"],
            [],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_mirror_is_that_of_the_machines_apt(tmp_path: Path, file: str, lines: list[str], uris: list[str]) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / file).write_text("".join(f"{line}\n" for line in lines))
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{parts}";\n')
    found = shell_function("machine_uris", tmp_path, APT_CONFIG=str(config), VERSION_CODENAME="bookworm")
    assert sorted(found.split()) == uris


@pytest.mark.parametrize(
    ("text", "first"),
    [("", "100000"), ("alice:100000:65536\nbob:300000:10\n# odd line\n", "300010"), ("low:500:10\n", "100000")],
)
def test_a_new_range_overlaps_no_other(tmp_path: Path, text: str, first: str) -> None:
    file = tmp_path / "subuid"
    file.write_text(text)
    assert shell_function(f"next_free_id {file}", tmp_path).strip() == first


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("apptainer") is None, reason="root, and an apptainer")
def test_running_it_again_changes_nothing(tmp_path: Path) -> None:
    before = {name: Path(name).read_bytes() for name in ("/etc/subuid", "/etc/subgid", "/etc/passwd")}
    status, text = run(INSTALL_APPTAINER, os_release=Path("/etc/os-release").read_text(), tmp=tmp_path)
    assert status == 0, text
    assert {name: Path(name).read_bytes() for name in before} == before


# --- install-packages -------------------------------------------------------------------------


def test_packages_needs_a_known_group(tmp_path: Path) -> None:
    status, text = run(INSTALL_PACKAGES, "slrum", tmp=tmp_path)
    assert status == 2
    assert "unknown group slrum; the groups are: base slurm registry docker test" in text
    assert run(INSTALL_PACKAGES, tmp=tmp_path)[0] == 2


def test_packages_calls_apt_only_if_something_is_missing(program: Program, programs: Path, tmp_path: Path) -> None:
    for name in ("docker-registry", "skopeo", "mmdebstrap"):
        program(name, "true")
    program("apt-get", f"touch {tmp_path}/apt-was-called")
    status, text = run(INSTALL_PACKAGES, "registry", path=programs, tmp=tmp_path)
    assert status == 0, text
    assert not (tmp_path / "apt-was-called").exists()


def test_packages_fetches_the_lists_once_and_tries_again(program: Program, programs: Path, tmp_path: Path) -> None:
    program("id", "echo 0")
    program("docker-registry", "true")
    log = tmp_path / "apt.log"
    # Like the real one on a fresh machine: knows no package until its lists are there.
    program(
        "apt-get",
        f'echo "$DEBIAN_FRONTEND $RUNLEVEL ${{*: -3}}" >>{log}\n'
        f'if [[ "$*" == *update* ]]; then touch {tmp_path}/lists; fi\n'
        f'[ -e {tmp_path}/lists ] || {{ echo "E: Unable to locate package"; exit 100; }}',
    )
    status, text = run(INSTALL_PACKAGES, "registry", path=programs, tmp=tmp_path)
    assert status == 0, text
    calls = [line.split()[-2:] for line in log.read_text().splitlines()]
    assert calls == [["skopeo", "mmdebstrap"], ["--no-install-recommends", "update"], ["skopeo", "mmdebstrap"]]
    assert all(line.startswith("noninteractive 1") for line in log.read_text().splitlines())


def test_packages_says_why_apt_failed(program: Program, programs: Path, tmp_path: Path) -> None:
    program("id", "echo 0")
    program("apt-get", 'echo "E: Unable to locate package skopeo"; exit 100')
    status, text = run(INSTALL_PACKAGES, "registry", path=programs, tmp=tmp_path)
    assert status == 1
    assert text.splitlines()[-1].endswith("E: Unable to locate package skopeo")


def test_packages_as_an_ordinary_user(program: Program, programs: Path, tmp_path: Path) -> None:
    program("id", "echo 1000")
    program("apt-get", f"touch {tmp_path}/apt-was-called")
    program("skopeo", "true")
    status, text = run(INSTALL_PACKAGES, "registry", path=programs, tmp=tmp_path)
    assert status == 2
    assert len(text.splitlines()) == 1
    assert "apt-get install -y --no-install-recommends docker-registry mmdebstrap" in text
    assert not (tmp_path / "apt-was-called").exists()


def test_packages_on_another_distribution_names_what_is_missing(programs: Path, tmp_path: Path) -> None:
    status, text = run(INSTALL_PACKAGES, "registry", path=programs, os_release=ROCKY, tmp=tmp_path)
    assert status == 2
    assert len(text.splitlines()) == 1
    assert "skopeo" in text
