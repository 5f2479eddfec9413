"""Digests are remembered for as long as a file is untouched, and not a moment longer."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from small_disk import fill

from harness.files import sha256_of
from harness.image import digests
from harness.image.digests import FileDigests


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read, in order."""
    files: list[Path] = []

    def counted(path: Path) -> str:
        files.append(path)
        return sha256_of(path)

    monkeypatch.setattr(digests, "sha256_of", counted)
    monkeypatch.setattr(digests, "SETTLED_NS", -1)  # as if every file had been written long ago
    return files


def digest(memory: Path, file: Path) -> str:
    with FileDigests.opened(memory, pytest.fail) as known:
        return known(file)


def test_a_memory_that_cannot_be_written_is_a_note_and_hides_no_error(
    tmp_path: Path, disk: Path, read: list[Path]
) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    fill(disk, 0)
    said: list[str] = []
    with FileDigests.opened(disk / "memory", said.append) as known:
        assert known(file) == sha256_of(file)
    assert said == [f"note: {disk}/memory: digests of files cannot be remembered: no space left on device"]
    with pytest.raises(ZeroDivisionError), FileDigests.opened(disk / "memory", said.append) as known:
        known(file)
        raise ZeroDivisionError


def test_an_untouched_file_is_read_once(tmp_path: Path, read: list[Path]) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    expected = hashlib.sha256(b"one").hexdigest()
    assert [digest(tmp_path / "memory", file) for _ in range(3)] == [expected] * 3
    assert read == [file]


def test_a_change_that_hides_its_time_and_size_is_noticed(tmp_path: Path, read: list[Path]) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    digest(tmp_path / "memory", file)
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest(tmp_path / "memory", file) == hashlib.sha256(b"two").hexdigest()


def test_a_file_put_in_the_place_of_another_is_noticed(tmp_path: Path, read: list[Path]) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_text("one")
    other.write_text("two")
    digest(tmp_path / "memory", file)
    other.replace(file)
    assert digest(tmp_path / "memory", file) == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", 3_600_000_000_000)
    file, memory = tmp_path / "a", tmp_path / "memory"
    file.write_text("one")
    digest(memory, file)
    assert not memory.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 0, "files": {}}', "null"])
def test_a_memory_that_cannot_be_read_is_an_empty_one(tmp_path: Path, read: list[Path], text: str) -> None:
    file, memory = tmp_path / "a", tmp_path / "memory"
    file.write_text("one")
    memory.write_text(text)
    assert digest(memory, file) == hashlib.sha256(b"one").hexdigest()
    assert read == [file]


def test_files_that_are_gone_are_forgotten(tmp_path: Path, read: list[Path]) -> None:
    one, two, memory = tmp_path / "a", tmp_path / "b", tmp_path / "memory"
    one.write_text("one")
    two.write_text("two")
    digest(memory, one)
    one.unlink()
    digest(memory, two)
    assert str(two) in memory.read_text()
    assert str(one) not in memory.read_text()
