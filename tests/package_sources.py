"""Package sources whose versions a test can move: a Debian archive and a Python index, served on loopback."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads a log of every file."""


class PackageSources:
    """A folder with ``debian/`` (a flat archive) and ``simple/`` (a Python index), and its address."""

    def __init__(self, root: Path, address: str) -> None:
        self.root = root
        self.address = address
        for folder in ("debian", "simple"):
            (root / folder).mkdir(parents=True)

    @property
    def apt_source(self) -> str:
        """A line for sources.list."""
        return f"deb [trusted=yes] {self.address}/debian ./\n"

    @property
    def index(self) -> str:
        return f"{self.address}/simple"

    def publish_deb(self, name: str, version: str, content: str = "") -> Path:
        """Add a Debian package that holds one file."""
        tree = self.root / "work" / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "usr/share").mkdir(parents=True, exist_ok=True)
        (tree / "usr/share" / name).write_text(content or version)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <a@example.org>\n"
        (tree / "DEBIAN/control").write_text(f"{control}Description: for a test\n")
        file = self.root / "debian" / f"{name}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, file], check=True, capture_output=True)
        self._list_debs()
        return file

    def withdraw_deb(self, name: str, version: str) -> None:
        """Take a version out of the archive, as mirrors do."""
        (self.root / "debian" / f"{name}_{version}_all.deb").unlink()
        self._list_debs()

    def _list_debs(self) -> None:
        listed = subprocess.run(
            ["dpkg-scanpackages", "--multiversion", "."], cwd=self.root / "debian", capture_output=True, check=True
        )
        (self.root / "debian/Packages").write_bytes(listed.stdout)

    def publish_wheel(self, name: str, version: str) -> Path:
        """Add a wheel with one module to the index."""
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        files = {
            f"{module}.py": f"VERSION = '{version}'\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        folder = self.root / "simple" / name
        folder.mkdir(exist_ok=True)
        wheel = folder / f"{module}-{version}-py3-none-any.whl"
        record = [f"{path},sha256={_record_digest(text)},{len(text)}" for path, text in files.items()]
        files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), text)
        links = "".join(
            f'<a href="{w.name}#sha256={hashlib.sha256(w.read_bytes()).hexdigest()}">{w.name}</a>\n'
            for w in sorted(folder.glob("*.whl"))
        )
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
        return wheel


def _record_digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@contextmanager
def package_sources(root: Path) -> Iterator[PackageSources]:
    """Both sources, served until the block ends."""
    root.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield PackageSources(root, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
