"""Definitions build what their Dockerfiles build: a part of the corpus on real engines; `make test-all` runs all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.definition.convert import convert
from harness.definition.dockerfile import read_dockerfile
from harness.definition.writer import write_definition
from harness.errors import MissingToolError
from harness.fidelity.corpus import CaseResult, add_bases, case_names, run_case
from harness.fidelity.table import render_table
from harness.fidelity.tree import compare_trees, read_tree
from harness.fidelity.verdicts import Verdict, VerdictStore
from harness.fidelity.verify import DEBIAN, Lab, open_lab, our_converter
from harness.image.driver import remove_tree
from harness.image.registry import ImageReference

CORPUS = Path(__file__).parent / "corpus"
SMALL_PART = (
    "copy-chown-setuid",
    "env-hides-nothing-of-the-host",
    "run-own-tmp",
    "stages-named",
    "start-inherit-entrypoint",
    "user-runs",
)


def archive(**entries: tuple[str, int, int]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, (content, mode, owner) in entries.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid = len(content), mode, owner
            packed.addfile(member, io.BytesIO(content.encode()))
    stream.seek(0)
    return stream


def test_trees_differ_by_presence_mode_owner_and_content() -> None:
    wanted = read_tree(archive(a=("x", 0o644, 0), b=("x", 0o644, 0), c=("x", 0o644, 0)))
    found = read_tree(archive(b=("y", 0o4755, 7), c=("x", 0o644, 0), d=("", 0o644, 0)))
    lines = compare_trees(wanted, found)
    assert lines == [
        "/a is missing",
        "/d is too many",
        "/b: mode 4755, not 0644",
        "/b: owner 7:0, not 0:0",
        "/b: other content",
    ]
    assert compare_trees(wanted, wanted) == []


def test_the_table_counts_what_nobody_would_notice_apart() -> None:
    results = [
        CaseResult("a", {"ours": Verdict("identical"), "other": Verdict("different", ("/x | y", "z"))}, 1.0),
        CaseResult(
            "b",
            {
                "ours": Verdict("refused", ("why",)),
                "other": Verdict("failed", ("in /some/where/v-a1b2c3d4/tmpa1b2c3d4/x: no",)),
            },
            1.0,
        ),
    ]
    table = render_table(results, {"Docker Engine": "1.2"}, "make fidelity", "2026-11-21")
    assert "on 2026-11-21 by `make fidelity` with Docker Engine 1.2." in table
    assert "| wrong silently | 0 (0.0 %) | 1 (50.0 %) |" in table
    assert "| failed: in x: no |" in table
    assert "| `a` | identical | **wrong silently**: /x \\| y (and 1 more) |" in table


def test_a_verdict_is_kept_for_the_same_definition_and_the_same_case_only(tmp_path: Path) -> None:
    case, store = tmp_path / "case", VerdictStore(tmp_path / "kept", "Docker 1")
    case.mkdir()
    (case / "Dockerfile").write_text("FROM x\n")
    key = store.key(case, "Bootstrap: docker\n")
    assert store.load(key) is None
    store.save(key, Verdict("different", ("/x is missing",)))
    assert store.load(key) == Verdict("different", ("/x is missing",))
    others = {
        store.key(case, "Bootstrap: other\n"),
        VerdictStore(store.folder, "Docker 2").key(case, "Bootstrap: docker\n"),
    }
    (case / "prepare.sh").write_text("touch a\n")
    others.add(store.key(case, "Bootstrap: docker\n"))
    assert key not in others
    assert len(others) == 3


def test_the_corpus_is_large_enough() -> None:
    assert len(case_names(CORPUS)) >= 60


@pytest.fixture(scope="module")
def lab(cache: Path) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        try:
            lab = stack.enter_context(open_lab(Path(os.environ.get("HARNESS_CACHE") or cache)))
        except MissingToolError as error:
            pytest.skip(str(error))
        yield lab


@pytest.mark.docker
@pytest.mark.apptainer
def test_a_part_of_the_corpus_is_identical(lab: Lab) -> None:
    add_bases(lab, CORPUS)
    verdicts = {n: run_case(lab, CORPUS / n, {"ours": our_converter(lab)}).verdicts["ours"] for n in SMALL_PART}
    assert {name: v.details for name, v in verdicts.items() if v.outcome != "identical"} == {}


@pytest.mark.docker
@pytest.mark.apptainer
def test_build_arguments_mean_the_same_to_both_engines(lab: Lab, tmp_path: Path) -> None:
    base = lab.registry.reference(ImageReference.parse(DEBIAN))
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        f"ARG NAME=nothing\nFROM {str(base).replace('debian', '${NAME}')}\nARG LEVEL=3\nARG UNSET\nARG KEPT=k\n"
        "ENV SEEN=$LEVEL-$KEPT\nRUN echo $LEVEL ${UNSET-unset} $KEPT > /out\n"
    )
    given = [word for value in ("NAME=debian", "LEVEL=9", "UNSET=now set") for word in ("--build-arg", value)]
    lab.docker.call("build", "--network", "host", "-q", "-t", "with-arguments", *given, str(tmp_path))
    with lab.docker.exported("with-arguments") as stream:
        wanted = read_tree(stream)["out"].content
    recipe, sandbox = tmp_path / "image.def", tmp_path / "sandbox"
    recipe.write_text(write_definition(convert(read_dockerfile(dockerfile), ".")))
    subprocess.run(
        [str(lab.engine.path), "build", "--fakeroot", "--sandbox", *given, str(sandbox), str(recipe)],
        env={**os.environ, f"{lab.engine.variable_prefix}_NOHTTPS": "1"},
        check=True,
        capture_output=True,
    )
    assert hashlib.sha256((sandbox / "out").read_bytes()).hexdigest() == wanted
    assert 'export SEEN="9-k"' in (sandbox / ".singularity.d/env/90-environment.sh").read_text()
    assert "SEEN=9-k" in lab.docker.config("with-arguments")["Env"]
    remove_tree(sandbox)
