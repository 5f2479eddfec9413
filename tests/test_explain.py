"""What is said of a key that moved: the line, the file, the tool, the base."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.definition.model import Definition
from harness.image.compression import DEFAULT, GZIP
from harness.image.explain import StageNote, explain_layer, explain_stages
from harness.image.stages import ChainRecord, LayerParts, Stage, StageParts, StageStore

APT = StageParts(
    parent="sha256:base",
    recipe="%post\napt-get install python3",
    files={},
    tools={"apptainer": "1.4.5", "mksquashfs": "4.5.1"},
    compression="lz4",
    origins=[("Dockerfile:3", "RUN apt-get install python3")],
)
PIP = StageParts(
    parent=APT.key,
    recipe="%post\npip install -r /lock",
    files={"containers/s/lock": "11", "containers/s/run": "22 +x"},
    tools=APT.tools,
    compression=DEFAULT.label,
    origins=[("Dockerfile:5", "COPY lock /lock"), ("Dockerfile:6", "RUN pip install -r /lock")],
)


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    """A store in which the chain APT, PIP was built."""
    store = StageStore(tmp_path / "stages")
    store.record(ChainRecord(name="s.cpu", reference="debian", base_digest="sha256:base", stages=[APT, PIP]))
    for parts in (APT, PIP):
        store.image(parts.key).touch()
    return store


def explain(store: StageStore, *chain: StageParts) -> list[StageNote]:
    stages = [Stage(Definition("docker", "debian"), parts, DEFAULT) for parts in chain]
    return explain_stages(stages, store, "s.cpu")


def test_nothing_moved(store: StageStore) -> None:
    assert [(note.state, note.moved) for note in explain(store, APT, PIP)] == [("cached", ()), ("cached", ())]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": {**PIP.files, "containers/s/lock": "12"}}, "containers/s/lock: changed"),
        ({"files": {**PIP.files, "containers/s/run": "22"}}, "containers/s/run: no longer executable"),
        ({"files": {**PIP.files, "containers/s/new": "33"}}, "containers/s/new: new file"),
        ({"files": {"containers/s/lock": "11"}}, "containers/s/run: no longer copied"),
        ({"compression": GZIP.label}, "compression: zstd-3 -> gzip"),
        ({"tools": {**PIP.tools, "apptainer": "1.5.0"}}, "apptainer: 1.4.5 -> 1.5.0"),
        (
            {"recipe": "x", "origins": [PIP.origins[0], ("Dockerfile:7", "RUN pip install -r /lock --no-deps")]},
            "Dockerfile:7: RUN … + --no-deps",
        ),
        (
            {"recipe": "x", "origins": [*PIP.origins, ("Dockerfile:7", "RUN rm -rf /root/.cache")]},
            "Dockerfile:7: new: RUN rm -rf /root/.cache",
        ),
        ({"recipe": "x", "origins": PIP.origins[:1]}, "Dockerfile:6 then: gone: RUN pip install -r /lock"),
        ({"recipe": "%post\nuv pip install -r /lock"}, "it is written another way: %post … + uv"),
    ],
)
def test_each_thing_that_moves_a_key_is_named(store: StageStore, change: dict[str, object], said: str) -> None:
    moved = PIP.model_copy(update=change)
    assert moved.key != PIP.key
    first, second = explain(store, APT, moved)
    assert first.state == "cached"
    assert (second.state, second.moved) == ("build", (said,))


def test_lines_that_only_moved_down_move_no_key() -> None:
    lower = PIP.model_copy(update={"origins": [("Dockerfile:9", text) for _, text in PIP.origins]})
    assert lower.key == PIP.key


def test_another_base_moves_every_stage(store: StageStore) -> None:
    first = APT.model_copy(update={"parent": "sha256:other"})
    notes = explain(store, first, PIP.model_copy(update={"parent": first.key}))
    assert [note.moved for note in notes] == [
        ("base image: sha256:base -> sha256:other",),
        ("the stage below moved",),
    ]


def test_a_removed_image_and_a_first_build_are_told_apart(store: StageStore, tmp_path: Path) -> None:
    store.image(PIP.key).unlink()
    assert explain(store, APT, PIP)[1].moved == ("nothing moved, but its image is not in the cache any more",)
    assert explain(StageStore(tmp_path / "empty"), APT)[0].moved == ("it was never built here",)


def test_a_missing_stage_below_one_that_is_there_is_not_built(store: StageStore) -> None:
    store.image(APT.key).unlink()
    assert [note.state for note in explain(store, APT, PIP)] == ["cached", "cached"]


def test_a_key_is_compared_with_the_nearest_chain_not_with_the_newest(store: StageStore) -> None:
    other = APT.model_copy(update={"recipe": "else", "origins": [("Dockerfile:3", "RUN something else")]})
    store.record(ChainRecord(name="s.cpu", reference="debian", base_digest="sha256:base", stages=[other]))
    moved = PIP.model_copy(update={"files": {**PIP.files, "containers/s/lock": "12"}})
    assert explain(store, APT, moved)[1].moved == ("containers/s/lock: changed",)


def test_a_failed_build_leaves_the_earlier_whole_one_to_compare_with(store: StageStore) -> None:
    store.record(ChainRecord(name="s.cpu", reference="debian", base_digest="sha256:base", stages=[APT]))
    moved = PIP.model_copy(update={"files": {**PIP.files, "containers/s/lock": "12"}})
    assert explain(store, APT, moved)[1].moved == ("containers/s/lock: changed",)


def test_a_layer_says_what_moved_in_it() -> None:
    before = LayerParts(
        definition_sha256="d", stack_key="k", sections={"runscript": "go 1"}, files={"p.py": "1"}, compression="zstd-3"
    )
    now = before.model_copy(
        update={"stack_key": "l", "sections": {"runscript": "go 2"}, "files": {"p.py": "2"}, "compression": "gzip"}
    )
    assert explain_layer(before, now) == [
        "its stack's image is another one",
        "p.py: changed",
        "%runscript: go … 1 -> 2",
        "compression: zstd-3 -> gzip",
    ]
    assert explain_layer(None, now) == ["how the published image was built is not remembered here"]
