"""A stack in stages: where it is cut, what is built again, why, and that nothing is done where nothing changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_project import harness

from harness.catalog.catalog import Catalog
from harness.definition.convert import convert
from harness.definition.cut import cut
from harness.definition.dockerfile import parse_dockerfile
from harness.definition.model import Definition
from harness.definition.writer import write_definition

needs_engine = [
    pytest.mark.apptainer,
    pytest.mark.skipif(
        shutil.which("apptainer") is None and shutil.which("singularity") is None,
        reason="no apptainer or singularity: scripts/install-apptainer; `make test` installs it",
    ),
]


def chain(text: str) -> list[Definition]:
    return cut(convert(parse_dockerfile(text, "Dockerfile"), "ctx"))


def titles(text: str) -> list[list[str]]:
    return [[layer.origin[1] for layer in part.layers if layer.origin] for part in chain(text)]


def test_a_cut_comes_after_each_run_that_works_and_other_instructions_join_the_next() -> None:
    text = "FROM d\nENV A=1\nRUN apt-get update\nWORKDIR /w\nCOPY lock /lock\nRUN pip install -r /lock\nENV B=2\n"
    assert titles(text) == [
        ["ENV A=1", "RUN apt-get update"],
        ["WORKDIR /w", "COPY lock /lock", "RUN pip install -r /lock", "ENV B=2"],
    ]


@pytest.mark.parametrize(
    "quick",
    [
        "rm -rf /var/cache && mkdir -p /x; chmod 755 /x",
        "python3 -m compileall -q /opt",
        """python -m compileall -q "$(python -c 'import sys; print(sys.path)')" || echo no""",
    ],
)
def test_quick_commands_join_the_run_before_them(quick: str) -> None:
    text = f"FROM d\nRUN apt-get update\nRUN pip install a\nENV A=1\nRUN {quick}\n"
    assert titles(text) == [["RUN apt-get update"], ["RUN pip install a", "ENV A=1", f"RUN {quick}"]]


@pytest.mark.parametrize(
    "slow", ["rm /x && pip install b", "echo $(make)", "--mount=type=tmpfs,target=/t rm /t", "./go"]
)
def test_what_is_not_known_to_be_quick_counts_as_work(slow: str) -> None:
    assert len(chain(f"FROM d\nRUN apt-get update\nRUN {slow}\n")) == 2


def test_files_copied_last_are_a_stage_of_their_own() -> None:
    assert titles("FROM d\nRUN apt-get update\nCOPY a /a\n") == [["RUN apt-get update"], ["COPY a /a"]]


def test_runs_that_share_a_cache_stay_together() -> None:
    shared = "RUN --mount=type=cache,target=/root/.cache pip install"
    assert len(chain(f"FROM d\nRUN apt-get update\n{shared} a\n{shared} b\n")) == 2
    assert len(chain("FROM d\nRUN apt-get update\nRUN pip install a\nRUN pip install b\n")) == 3


def test_later_stages_see_docker_environment_and_say_it_of_the_image_once() -> None:
    first, second = chain(
        "ARG V=3\nFROM d\nARG V\nENV PATH=/opt/bin:$PATH\nRUN apt-get update\nENV B=$V\nRUN pip install x\nLABEL l=m\n"
    )
    one, two = write_definition(first), write_definition(second)
    assert "\n%environment" not in one
    assert "\n%labels" not in one
    assert two.index('export PATH="/opt/bin:${base_PATH}"') < two.index("pip install x")
    assert "keep base_PATH" in one
    assert "keep base_PATH" not in two  # once is enough: the file that holds it is in the first stage's image
    assert "\n={{ V }}\n" in two
    assert 'export V="${argument_V}"' in two
    assert 'keep argument_V "${argument_V}"' in one  # and what %environment says of B is read from there
    assert "V=3" in two.split("%arguments\n")[1].splitlines()
    environment = two.split("\n%environment\n")[1]
    assert environment.startswith('. /.singularity.d/base-environment\nexport PATH="/opt/bin:${base_PATH}"\nexport B=')
    assert "apt-get" not in two
    assert "l m" in two


def test_a_build_stage_is_built_for_the_part_that_copies_from_it() -> None:
    first, second = chain("FROM d AS tools\nRUN make\nFROM d\nRUN apt-get update\nCOPY --from=tools /t /t\nRUN pip x\n")
    assert [stage.name for stage in first.stages] == []
    assert [stage.name for stage in second.stages] == ["tools"]


# --- with a real engine -----------------------------------------------------------------------

STAGED = "RUN sort /opt/stack/requirements.lock >/opt/stack/sorted\nRUN wc -l /opt/stack/sorted >/opt/stack/count\n"


class Recorder:
    """An engine first on PATH that writes down how it is called."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        for name in ("apptainer", "singularity"):
            if real := shutil.which(name):
                wrapper = folder / name
                wrapper.write_text(f'#!/bin/sh\necho "$*" >>{self.calls_file}\nexec {real} "$@"\n')
                wrapper.chmod(0o755)
        self.env = {"PATH": f"{folder}:{os.environ['PATH']}"}

    def builds(self) -> list[str]:
        """The definitions that were built since the last look."""
        calls = self.calls_file.read_text().splitlines()
        self.calls_file.write_text("")
        return [call.split()[-1] for call in calls if call.startswith("build ")]

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "engine")


@pytest.fixture
def own_cache(tmp_path: Path, cache: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, with the shared base images."""
    own = tmp_path / "cache"
    own.mkdir()
    if (cache / "base").is_dir():
        (own / "base").symlink_to(cache / "base")
    monkeypatch.setenv("HARNESS_CACHE", str(own))
    return own


def add_to_dockerfile(project: Path, text: str) -> None:
    file = project / "containers/tiny/Dockerfile.cpu"
    file.write_text(file.read_text() + text)


def run(project: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    done = harness(project, *arguments, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def explained(project: Path) -> dict[str, object]:
    (note,) = json.loads(harness(project, "explain", "2", "--json").stdout)
    return dict(note)


class TestRealStages:
    """One life of a stack, step by step: the first build costs most of the time."""

    pytestmark = needs_engine

    def test_only_what_changed_is_built_again_and_it_is_said_why(
        self, project: Path, recorder: Recorder, own_cache: Path
    ) -> None:
        add_to_dockerfile(project, STAGED)
        catalog = Catalog(project / "catalog")
        run(project, "build", "2", env=recorder.env)
        assert recorder.builds() == [f"tiny.cpu.stage{n}of3.def" for n in (1, 2, 3)]
        first = catalog.current("tutorial2.cpu")
        assert first is not None
        assert "up to date, nothing would be done" in run(project, "explain", "2")

        # Nothing changed: no engine is started, not even for its version.
        assert "up to date" in run(project, "build", "2", env=recorder.env)
        assert "up to date" in run(project, "build", "--all", env=recorder.env)
        assert recorder.calls() == []

        # The program: the layer alone.
        program = project / "tutorials/xscow-2/count.py"
        text = program.read_text()
        program.write_text(text + "# more\n")
        note = explained(project)
        assert [stage["state"] for stage in note["stages"]] == ["cached"] * 3
        assert note["layer"] == ["tutorials/xscow-2/count.py: changed"]
        run(project, "build", "2", env=recorder.env)
        assert recorder.builds() == []
        program.write_text(text)

        # A line of the last stage.
        dockerfile = project / "containers/tiny/Dockerfile.cpu"
        before = dockerfile.read_text()
        dockerfile.write_text("# a comment moves no key\n" + before.replace("wc -l", "wc -c"))
        shown = run(project, "explain", "2")
        assert "stage 1 of 3  cached" in shown
        assert "stage 2 of 3  cached" in shown
        assert "stage 3 of 3  build" in shown
        assert "containers/tiny/Dockerfile.cpu:9: RUN … -l -> -c" in shown
        run(project, "build", "2", env=recorder.env)
        assert recorder.builds() == ["tiny.cpu.stage3of3.def"]

        # A file of the second.
        (project / "containers/tiny/requirements.lock").write_text("# something\n")
        note = explained(project)
        assert [stage["state"] for stage in note["stages"]] == ["cached", "build", "build"]
        assert note["stages"][1]["moved"] == ["containers/tiny/requirements.lock: changed"]
        assert note["stages"][2]["moved"] == ["the stage below moved"]
        run(project, "build", "2", env=recorder.env)
        assert recorder.builds() == ["tiny.cpu.stage2of3.def", "tiny.cpu.stage3of3.def"]

        # Back: everything is there, and the image is the first one again, byte for byte.
        dockerfile.write_text(before)
        (project / "containers/tiny/requirements.lock").write_text("# nothing\n")
        run(project, "build", "2", env=recorder.env)
        assert recorder.builds() == []
        assert catalog.current("tutorial2.cpu") == first.model_copy(
            update={"built_at": catalog.current("tutorial2.cpu").built_at}  # type: ignore[union-attr]
        )

        # The bytes do not depend on what was cached either.
        last = max((own_cache / "stages").glob("*.sif"), key=lambda path: path.stat().st_mtime_ns)
        assert last.is_file()
        for stage in (own_cache / "stages").glob("*.sif"):
            if stage.stat().st_size != max(s.stat().st_size for s in (own_cache / "stages").glob("*.sif")):
                stage.unlink()
        run(project, "build", "2", "--force", env=recorder.env)
        again = catalog.current("tutorial2.cpu")
        assert again is not None
        assert recorder.builds() != []
        assert again.sha256 == first.sha256

        # Compression: of the stages only the last is packed again.
        done = run(project, "explain", "2", "--compression", "gzip")
        assert "compression: zstd-3 -> gzip" in done
        run(project, "build", "2", "--compression", "gzip", env=recorder.env)
        assert recorder.builds() == ["tiny.cpu.stage3of3.def"]
        packed = catalog.current("tutorial2.cpu")
        assert packed is not None
        assert packed.compression == "gzip"
        assert '"compression": "gzip"' in json.dumps(packed.model_dump())


@pytest.mark.parametrize("wrong", ["zstd:0", "zstd:23", "lz77", "gzip:3"])
def test_an_unknown_compression_is_refused_with_the_valid_ones(project: Path, wrong: str) -> None:
    done = harness(project, "build", "2", "--compression", wrong)
    assert done.returncode == 2
    assert "valid: zstd:1 to zstd:22" in done.stderr
