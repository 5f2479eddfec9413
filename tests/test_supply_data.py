"""Data sets from plain servers: files, archives, checksums, and what only a person can get."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_support import contents, run_here, site
from tiny_hub import TinyHub

NUMBERS = {"a.txt": b"1\n" * 1000, "b.txt": b"2\n" * 1000}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server of plain files, and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, data in NUMBERS.items():
        (folder / name).write_bytes(data)
    with tarfile.open(folder / "numbers.tar.gz", "w:gz") as archive:
        for name, data in {**NUMBERS, "readme": b"not wanted", "../../evil": b"nor this"}.items():
            member = tarfile.TarInfo(f"numbers-1.0/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def describe(project: Path, downloads: str) -> None:
    path = project / "tutorials/xscow-2/tutorial.toml"
    path.write_text(path.read_text().replace("[[models]]", f"{downloads}\n[[models]]", 1))


def md5(path: Path) -> str:
    return "md5:" + hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_files_come_from_the_first_server_that_gives_them_right(supplied: Path, server: tuple[str, Path]) -> None:
    address, folder = server
    (folder / "bad-b.txt").write_bytes(b"3\n" * 1000)
    for name, urls in (("a.txt", [f"{address}/none", f"{address}/a.txt"]), ("b.txt", [f"{address}/bad-b.txt"])):
        describe(supplied, f'[[data.downloads]]\nfile = "{name}"\nurls = {urls}\nchecksum = "{md5(folder / name)}"\n')
    refused = run_here(supplied, "data", "fetch", "numbers")
    assert refused.returncode == 1
    assert "b.txt has md5:" in refused.stderr and f"the hub lists {md5(folder / 'b.txt')}" in refused.stderr
    assert not (supplied.parent / "data/numbers").exists()
    (folder / "bad-b.txt").write_bytes(NUMBERS["b.txt"])
    done = run_here(supplied, "data", "fetch", "numbers")
    assert done.returncode == 0, done.stderr
    assert contents(supplied.parent / "data/numbers") == NUMBERS
    assert "2 files compared" in run_here(supplied, "data", "verify").stdout


@pytest.mark.parametrize("is_known", [True, False])
def test_an_archive_is_unpacked_to_what_is_wanted_of_it(
    supplied: Path, server: tuple[str, Path], is_known: bool
) -> None:
    address, folder = server
    checksum = f'checksum = "{md5(folder / "numbers.tar.gz")}"\n' if is_known else ""
    where = f'file = "numbers.tar.gz"\nurls = ["{address}/numbers.tar.gz"]\n'
    describe(supplied, f"[[data.downloads]]\n{where}{checksum}unpack = true\n")
    done = run_here(supplied, "data", "fetch", "--tutorial", "2")
    assert done.returncode == 0, done.stderr
    assert contents(supplied.parent / "data/numbers") == NUMBERS
    assert not list(supplied.parent.rglob("evil"))
    assert run_here(supplied, "data", "verify").returncode == 0
    assert "is here already" in run_here(supplied, "data", "fetch", "numbers").stderr


def test_a_broken_archive_is_said(supplied: Path, server: tuple[str, Path]) -> None:
    address, folder = server
    (folder / "numbers.tar.gz").write_bytes(b"no archive")
    describe(
        supplied,
        f'[[data.downloads]]\nfile = "n"\nurls = ["{address}/numbers.tar.gz"]\nunpack = true\n',
    )
    done = run_here(supplied, "data", "fetch", "numbers")
    assert done.returncode == 1 and "cannot be unpacked" in done.stderr
    assert not (supplied.parent / "data/numbers").exists()


def test_a_data_set_of_a_hub_is_fetched_as_a_model_is(supplied: Path, hub: TinyHub) -> None:
    path = supplied / "tutorials/xscow-2/tutorial.toml"
    path.write_text(path.read_text().replace('name = "numbers"', 'name = "numbers"\nhub = "tiny/numbers"'))
    for protocol in ("huggingface", "modelscope"):
        site(supplied, **{protocol: [hub.address]})
        done = run_here(supplied, "data", "fetch", "other/numbers", "--again")
        assert done.returncode == 0, done.stderr
        assert contents(supplied.parent / "data/numbers") == {"a.txt": b"1", "b.txt": b"2"}
    assert "/api/datasets/tiny/numbers/revision/main" in hub.asked
    assert any(path.startswith("/api/v1/datasets/tiny/numbers/repo/tree?") for path in hub.asked)


def test_what_only_a_person_can_get_is_said_with_its_place(supplied: Path) -> None:
    done = run_here(supplied, "data", "fetch", "numbers")
    assert done.returncode == 2
    assert "no program can fetch it; get it by hand (anywhere) and put a.txt, b.txt into" in done.stderr
    assert "none numbers: is not below" in run_here(supplied, "data", "verify").stdout
    folder = supplied.parent / "data/numbers"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("1")
    done = run_here(supplied, "data", "verify", "numbers")
    assert done.returncode == 1
    assert "numbers/b.txt is missing; get it by hand: anywhere" in done.stdout
    everything = run_here(supplied, "data", "fetch", "--all")
    assert everything.returncode == 0, everything.stderr
    assert "note: numbers: get it by hand: anywhere" in everything.stderr


def test_a_checksum_that_is_none_is_refused(supplied: Path) -> None:
    describe(supplied, '[[data.downloads]]\nfile = "a"\nurls = ["http://x"]\nchecksum = "md5:12"\n')
    done = run_here(supplied, "data", "list")
    assert done.returncode == 2 and "'md5:12' is no checksum; valid: sha256:" in done.stderr
