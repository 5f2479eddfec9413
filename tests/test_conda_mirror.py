"""Conda mirrors of a site: lent to %post through a proxy of two hosts, tried in order, without a trace in the image."""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import io
import json
import re
import shutil
import ssl
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import NO_ENGINE
from fault_proxy import Fault, fault_proxy
from test_mirrors import DEAD, files_served, write_site
from tiny_project import DOCKERFILE, exported, harness

from harness.definition.convert import convert
from harness.definition.dockerfile import parse_dockerfile
from harness.definition.writer import write_definition
from harness.image.conda_relay import conda_relay
from harness.image.engine import find_engine
from harness.image.process import run_command

NAME = "nearby-1.0-0.tar.bz2"
CHANNEL = "https://conda.anaconda.org/forge/noarch"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl: scripts/install-packages")


def make_channel(root: Path) -> Path:
    """A mirror with one channel that holds one package of one file; the files are what conda's own server has."""
    packed = io.BytesIO()
    about = {"name": "nearby", "version": "1.0", "build": "0", "build_number": 0, "depends": [], "noarch": "generic"}
    files = {"info/index.json": json.dumps(about), "info/files": "share/nearby\n", "share/nearby": "here\n"}
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    package = bz2.compress(packed.getvalue())
    digests = {"sha256": hashlib.sha256(package).hexdigest(), "md5": hashlib.md5(package).hexdigest()}
    for platform, packages in (("noarch", {NAME: {**about, **digests, "size": len(package)}}), ("linux-64", {})):
        folder = root / "cloud/forge" / platform
        folder.mkdir(parents=True)
        data = {"info": {"subdir": platform}, "packages": packages, "packages.conda": {}, "repodata_version": 1}
        (folder / "repodata.json").write_text(json.dumps(data))
    (root / "cloud/forge/noarch" / NAME).write_bytes(package)
    return root


@contextlib.contextmanager
def client(folder: Path, mirrors: list[str], lines: list[str]) -> Iterator[urllib.request.OpenerDirector]:
    """One that obeys the configuration that is lent to conda."""
    folder.mkdir()
    with conda_relay(mirrors, folder, str(folder), None, lines.append):
        configuration = (folder / "condarc").read_text()
        proxies = set(re.findall(r"^  https://\S+: (http://127\.0\.0\.1:\d+)$", configuration, re.MULTILINE))
        assert len(proxies) == 1
        authorities = re.search(r"^ssl_verify: (\S+)$", configuration, re.MULTILINE)
        assert authorities
        context = ssl.create_default_context(cafile=authorities[1])
        yield urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": proxies.pop()}), urllib.request.HTTPSHandler(context=context)
        )


@needs_openssl
def test_channels_come_from_the_next_mirror_where_one_fails(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "empty").mkdir()
    defaults = make_channel(tmp_path / "full") / "pkgs/main"
    defaults.mkdir(parents=True)
    (defaults / "x").write_text("default channel")
    with (
        files_served(tmp_path / "empty") as empty,
        files_served(tmp_path / "full") as full,
        fault_proxy(full, lambda *_: Fault(status=500)) as ill,
        client(tmp_path / "lent", [DEAD, f"http://{empty}", f"http://{ill.host}", f"http://{full}"], lines) as opener,
    ):
        with opener.open(f"{CHANNEL}/repodata.json", timeout=20) as answer:
            assert NAME in json.load(answer)["packages"]
        with opener.open(urllib.request.Request(f"{CHANNEL}/{NAME}", method="HEAD"), timeout=20) as answer:
            assert (int(answer.headers["Content-Length"]), answer.read()) == (
                (tmp_path / "full/cloud/forge/noarch" / NAME).stat().st_size,
                b"",
            )
        with opener.open("https://repo.anaconda.com/pkgs/main/x", timeout=20) as answer:
            assert answer.read() == b"default channel"
        with pytest.raises(urllib.error.URLError):  # no other host is answered for
            opener.open("https://pypi.example/simple", timeout=20)
    assert [line.split(": giving up this conda mirror: ")[0] for line in lines] == ["127.0.0.1:1", ill.host]
    assert not list(tmp_path.glob("conda-*"))  # the authority's key has gone
    assert {path.name for path in (tmp_path / "lent").iterdir()} == {"condarc", "conda-ca.pem"}
    assert "PRIVATE" not in (tmp_path / "lent/conda-ca.pem").read_text()


def test_without_mirrors_nothing_is_lent(tmp_path: Path) -> None:
    with conda_relay([], tmp_path, "/mnt", None, print):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "speaks_of_it"),
    [
        ("conda install -y numpy", True),
        ("/opt/conda/bin/mamba env update", True),
        ("micromamba create -n x", True),
        ("pip install mamba-ssm anaconda-client", False),
        ("echo second.conda", False),
    ],
)
def test_only_a_definition_that_speaks_of_conda_has_the_loan(command: str, speaks_of_it: bool) -> None:
    text = write_definition(convert(parse_dockerfile(f"FROM debian\nRUN {command}\n", "Dockerfile"), "."))
    assert (text.count("/etc/conda/condarc.d/lent.yml") == 3) == speaks_of_it
    assert ("conda/condarc.d" in text) == speaks_of_it


# What conda does, in a few lines: its configuration, a channel's index, a package, and a note of where that came from.
CONDA = """\
import hashlib, io, json, re, ssl, tarfile, urllib.request
text = open("/etc/conda/condarc.d/lent.yml").read()
proxy = re.search(r"https://conda.anaconda.org: (\\\\S+)", text)[1]
context = ssl.create_default_context(cafile=re.search(r"ssl_verify: (\\\\S+)", text)[1])
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({"https": proxy}), urllib.request.HTTPSHandler(context=context))
channel = "https://conda.anaconda.org/forge/noarch"
packages = json.load(opener.open(channel + "/repodata.json"))["packages"]
(name,) = packages
package = opener.open(channel + "/" + name).read()
assert hashlib.sha256(package).hexdigest() == packages[name]["sha256"]
tarfile.open(fileobj=io.BytesIO(package)).extractall("/opt/env")
json.dump({"url": channel + "/" + name}, open("/opt/env/nearby.json", "w"))
"""


@needs_openssl
@pytest.mark.apptainer
@pytest.mark.skipif(shutil.which("apptainer") is None, reason=NO_ENGINE)
def test_a_build_takes_packages_from_the_mirror_and_no_trace_of_it_stays(project: Path, tmp_path: Path) -> None:
    (project / "containers/tiny/conda.py").write_text(CONDA.replace("\\\\", "\\"))
    (project / "containers/tiny/Dockerfile.cpu").write_text(
        f"{DOCKERFILE}COPY conda.py /opt/conda.py\nRUN python3 /opt/conda.py # stands for conda\n"
    )
    with (
        files_served(make_channel(tmp_path / "full")) as full,
        fault_proxy(full) as mirror,
    ):
        write_site(project, f'[mirrors]\nconda = ["{DEAD}", "http://{mirror.host}"]\n')
        done = harness(project, "build", "2", "--site", "near")
        assert done.returncode == 0, done.stderr
        assert [request for request in mirror.requests if NAME in request]
    assert "127.0.0.1:1: no: conda mirror" in done.stderr
    image = exported(project, tmp_path / "whole.sif")
    engine = find_engine()
    inside = [str(engine.path), "exec", *engine.run_flags(), "--cleanenv", "--no-home", str(image)]
    shown = run_command([*inside, "cat", "/opt/env/share/nearby", "/opt/env/nearby.json"], separate_stdout=True).stdout
    assert shown.splitlines() == ["here", json.dumps({"url": f"{CHANNEL}/{NAME}"})]
    assert run_command([*inside, "test", "-e", "/etc/conda"], check=False).returncode == 1
    with subprocess.Popen(
        [*inside, "tar", "--one-file-system", "-C", "/", "-cf", "-", "."], stdout=subprocess.PIPE
    ) as packing:
        assert packing.stdout is not None
        tree = packing.stdout.read()
    assert len(tree) > 50e6
    for trace in (mirror.host, "a build's mirrors of conda", "BEGIN TRUSTED"):
        assert trace.encode() not in tree
