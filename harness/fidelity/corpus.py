"""A corpus of Dockerfiles, built by both engines with each converter, and the table that says what came out.

A case is a folder with a ``Dockerfile`` and its context. ``prepare.sh`` makes in a copy of it what git does not keep;
``Dockerfile.docker`` stands in where Docker cannot build the case: its engine is older than the syntax, or the case
needs a network. ``bases/NAME/`` are images that cases start from, as ``NAME:1``; ``files/`` is what
``http://files.example/`` stands for.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CommandError, HarnessError, MissingToolError
from harness.fidelity.verdicts import Verdict, VerdictStore, digest, folder_parts
from harness.fidelity.verify import DEBIAN, Converter, Lab, Reference, definition_or_verdict
from harness.image.process import run_command

FILES_ADDRESS = "http://files.example"
# The modules whose change may change a verdict.
_JUDGES = ("behaviour", "corpus", "docker", "tree", "verify")


@dataclass(frozen=True)
class CaseResult:
    """What each converter made of one case; ``verdicts`` by the converter's name."""

    name: str
    verdicts: Mapping[str, Verdict]
    seconds: float


def case_names(corpus: Path) -> list[str]:
    """The cases of a corpus."""
    return sorted(d.name for d in corpus.iterdir() if (d / "Dockerfile").is_file())


def add_bases(lab: Lab, corpus: Path) -> None:
    """Build the corpus's own bases."""
    for folder in sorted((corpus / "bases").iterdir()):
        context = copy_of(folder, lab.work / "bases" / folder.name)
        lab.docker.build(context, context / "Dockerfile", f"{folder.name}:1")
        lab.publish(f"{folder.name}:1")


def verdict_store(lab: Lab, corpus: Path, folder: Path) -> VerdictStore:
    """Where this lab's verdicts on this corpus are kept, in ``folder``."""
    versions = [f"{name} {version}".encode() for name, version in lab.versions().items()]
    base = lab.docker.call("image", "inspect", "--format", "{{.Id}}", DEBIAN).encode()
    shared = [*folder_parts(corpus / "bases"), *folder_parts(corpus / "files")]
    code = [(Path(__file__).parent / f"{name}.py").read_bytes() for name in _JUDGES]
    return VerdictStore(folder, digest([*versions, base, *shared, *code]))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server on loopback that gives out a folder's files."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A request is no news."""


def copy_of(case: Path, target: Path) -> Path:
    """A case's context with the modes that git means, and what git does not keep."""
    shutil.copytree(case, target, symlinks=True, ignore=shutil.ignore_patterns("Dockerfile.docker", "prepare.sh"))
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", str(target)], check=True)
    if (case / "prepare.sh").is_file():
        run_command(["/bin/sh", (case / "prepare.sh").resolve()], cwd=target, umask=0o022)
    return target


def run_case(
    lab: Lab,
    case: Path,
    converters: Mapping[str, Converter],
    *,
    store: VerdictStore | None = None,
    files: str = FILES_ADDRESS,
) -> CaseResult:
    """Judge one case with each converter: by building it, or by what ``store`` keeps of an equal build.

    Args:
        files: the address that stands for :data:`FILES_ADDRESS` in this run.

    Raises:
        HarnessError: Docker cannot build it.
    """
    started = time.monotonic()
    folder = lab.work / "cases" / case.name
    wanted: Reference | None = None
    verdicts = {}
    try:
        context = copy_of(case, folder)
        dockerfile = context / "Dockerfile"
        dockerfile.write_bytes(dockerfile.read_bytes().replace(FILES_ADDRESS.encode(), files.encode()))
        for name, converter in converters.items():
            definition = definition_or_verdict(converter, dockerfile)
            if isinstance(definition, Verdict):
                verdicts[name] = definition
                continue
            key = store.key(case, definition.replace(files, FILES_ADDRESS)) if store else ""
            kept = store.load(key) if store else None
            if kept is None:
                wanted = wanted or _reference(lab, case, context)
                kept = lab.verify(definition, context, wanted)
                if store:
                    store.save(key, kept)
            verdicts[name] = kept
    except CommandError as error:
        raise HarnessError(f"{case.name}: {error}: {error.output[-500:]}", where=str(case)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return CaseResult(case.name, verdicts, time.monotonic() - started)


def _reference(lab: Lab, case: Path, context: Path) -> Reference:
    try:
        return lab.reference(context / "Dockerfile", context)
    except CommandError:
        stand_in = case / "Dockerfile.docker"
        if not stand_in.is_file():
            raise
        return lab.reference(stand_in.resolve(), context)


def spython_converter() -> tuple[Converter, str]:
    """The converter of the Python package ``spython``, for comparison, and its version.

    Raises:
        MissingToolError: it is not installed.
    """
    program = shutil.which("spython") or str(Path(sys.executable).with_name("spython"))
    if not Path(program).is_file():
        raise MissingToolError("spython is not installed", fix="pip install spython in an environment on PATH")

    def converted(dockerfile: Path) -> str:
        result = run_command([program, "recipe", "Dockerfile"], cwd=dockerfile.parent, separate_stdout=True)
        start = result.stdout.find("Bootstrap:")
        if start < 0:
            raise HarnessError(f"spython wrote no definition: {(result.stdout or result.output)[-200:]}")
        return result.stdout[start:]

    return converted, run_command([program, "--version"], separate_stdout=True).stdout.strip()
