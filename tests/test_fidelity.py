"""Definitions build what their Dockerfiles build: a part of the corpus on real engines; `make test-all` runs all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_project import harness

from harness.definition.context import Context
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
# One case or two for each kind of instruction that is easy to get wrong; each takes seconds.
SMALL_PART = (
    "add-archive-old",
    "arg-chooses-stage",
    "arg-odd-characters",
    "arg-paths",
    "copy-chown-setuid",
    "copy-dockerignore-rules",
    "copy-globs-nothing",
    "copy-over-links",
    "env-hides-nothing-of-the-host",
    "heredoc-copy",
    "onbuild-chain",
    "run-comment-continued",
    "run-hostile-lines",
    "run-mount-cache-over-content",
    "run-own-tmp",
    "run-workdir-removed",
    "stages-odd-names",
    "start-across-stages",
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
    store.save(store.key(case, "Bootstrap: yum\n"), Verdict("failed", ("no space left on device",)))
    assert store.load(store.key(case, "Bootstrap: yum\n")) is None
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
            if os.environ.get("CI") and os.geteuid() == 0:  # there `make test` has installed what is missing
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield lab


@pytest.mark.docker
@pytest.mark.apptainer
def test_a_part_of_the_corpus_is_identical(lab: Lab) -> None:
    add_bases(lab, CORPUS)

    def judged(name: str) -> Verdict:
        return run_case(lab, CORPUS / name, {"ours": our_converter(lab)}).verdicts["ours"]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = dict(zip(SMALL_PART, pool.map(judged, SMALL_PART), strict=True))
    assert {name: v.details for name, v in verdicts.items() if v.outcome != "identical"} == {}


@pytest.mark.docker
@pytest.mark.apptainer
def test_build_arguments_mean_the_same_to_both_engines(lab: Lab, tmp_path: Path) -> None:
    base = lab.registry.reference(ImageReference.parse(DEBIAN))
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        f"ARG NAME=nothing\nFROM {str(base).replace('debian', '${NAME}')}\nARG LEVEL=3\nARG UNSET\nARG KEPT=k\n"
        "ARG ODD=x\n"
        'ENV SEEN=$LEVEL-$KEPT ODD_SEEN="<$ODD>"\nWORKDIR /w/$ODD\nCOPY Dockerfile ./$ODD/\nRUN pwd >/where\n'
        'RUN echo $LEVEL ${UNSET-unset} $KEPT >/out; printf %s "$ODD" >>/out\n'
    )
    odd = """%d "$HOME" $(touch /ran) `touch /ran` it's a\\b #c;&|"""
    values = ("NAME=debian", "LEVEL=9", "UNSET=now set", f"ODD={odd}")
    given = [word for value in values for word in ("--build-arg", value)]
    as_csv = ['"{}"'.format(word.replace('"', '""')) if word in values else word for word in given]  # Apptainer's way
    lab.docker.call("build", "--network", "host", "-q", "-t", "with-arguments", *given, str(tmp_path))
    with lab.docker.exported("with-arguments") as stream:
        wanted = read_tree(stream)
    recipe, sandbox = tmp_path / "image.def", tmp_path / "sandbox"
    recipe.write_text(write_definition(convert(read_dockerfile(dockerfile), Context.of(tmp_path, "."))))
    engine = [str(lab.engine.path), "-q"]
    subprocess.run(
        [*engine, "build", "--fakeroot", "--sandbox", *as_csv, str(sandbox), str(recipe)],
        env={**os.environ, f"{lab.engine.variable_prefix}_NOHTTPS": "1"},
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    for path in ("out", "where"):
        assert hashlib.sha256((sandbox / path).read_bytes()).hexdigest() == wanted[path].content
    assert (sandbox / f"w/{odd}/{odd}/Dockerfile").is_file()
    assert not (sandbox / "ran").exists()
    seen = subprocess.run(
        [*engine, "exec", *lab.engine.run_flags(), str(sandbox), "/usr/bin/env"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert {"SEEN=9-k", f"ODD_SEEN=<{odd}>"} <= set(seen) & set(lab.docker.config("with-arguments")["Env"])
    remove_tree(sandbox)


@pytest.mark.docker
@pytest.mark.apptainer
def test_a_stage_that_an_argument_chose_is_no_image_of_that_name(lab: Lab, tmp_path: Path) -> None:
    """Docker builds the other stage then; a definition has one, and would take a stranger's image for the other."""
    base = lab.registry.reference(ImageReference.parse(DEBIAN))
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        f"ARG KIND=cpu\nFROM {base} AS base-cpu\nFROM {base} AS base-gpu\nFROM base-$KIND\nRUN echo went on\n"
    )
    recipe = tmp_path / "image.def"
    recipe.write_text(write_definition(convert(read_dockerfile(dockerfile), ".")))
    command = [str(lab.engine.path), "build", "--fakeroot", "--sandbox", "--build-arg", "KIND=gpu"]
    done = subprocess.run(
        [*command, str(tmp_path / "sandbox"), str(recipe)],
        env={**os.environ, f"{lab.engine.variable_prefix}_NOHTTPS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "build argument KIND must stay as it is: it chooses the stage base-cpu" in done.stderr
    assert "went on" not in done.stdout


@pytest.mark.docker
@pytest.mark.apptainer
def test_the_command_verifies_the_definition_that_it_writes(lab: Lab, cache: Path, tmp_path: Path) -> None:
    """In the Dockerfile's own folder, where people are; and from elsewhere, with a context of another place."""
    base = f"{lab.registry.host}/workspace:1"
    (tmp_path / "base").mkdir()
    said = f"WORKDIR /workspace\nRUN chown www-data .\nUSER www-data\nSHELL {json.dumps(['/bin/bash', '-c'])}\n"
    (tmp_path / "base/Dockerfile").write_text(f"FROM {DEBIAN}\n{said}ONBUILD RUN touch fired-$UID\n")
    lab.docker.build(tmp_path / "base", tmp_path / "base/Dockerfile", base)
    lab.docker.call("push", "-q", base)
    own, usual = tmp_path / "own", tmp_path / "user-cache"
    own.mkdir()
    usual.mkdir()
    (usual / "tutorial-harness").symlink_to(Path(os.environ.get("HARNESS_CACHE") or cache).absolute())
    (own / "train.py").write_text("")
    (own / "Dockerfile").write_text(f"FROM {base}\nCOPY train.py .\nCOPY . all/\nRUN [[ -f train.py ]] && pwd >where\n")
    env = {"HARNESS_CACHE": "", "XDG_CACHE_HOME": str(usual)}
    if lab.docker.host is not None:  # a second engine would do as well, and take its time to start
        env["DOCKER_HOST"] = lab.docker.host
    done = harness(own, "convert", "--verify", "Dockerfile", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "Dockerfile: identical"
    assert "/train.py /workspace /workspace\n" in done.stdout
    assert sorted(p.name for p in own.iterdir()) == ["Dockerfile", "train.py"]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "Dockerfile").write_text((own / "Dockerfile").read_text() + "HEALTHCHECK CMD test -f train.py\n")
    options = ["--verify", "--context", "../own", "--healthcheck-as-test", "-o", "x.def"]
    kept = str((usual / "tutorial-harness").resolve())
    done = harness(elsewhere, "convert", "Dockerfile", *options, env={**env, "HARNESS_CACHE": kept})
    assert done.returncode == 0, done.stderr
    assert "\n../own/train.py /" in (elsewhere / "x.def").read_text()
    assert "\n%test\n" in (elsewhere / "x.def").read_text()
    inside = harness(own, "convert", "--verify", "Dockerfile", env={**env, "HARNESS_CACHE": "kept"})
    assert inside.returncode == 2
    assert "kept: the cache is in the build context" in inside.stderr
