"""The converter: what a Dockerfile says ends up in the definition, or is refused with file and line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_project import exported, harness

from harness.definition.convert import convert
from harness.definition.dockerfile import parse_dockerfile
from harness.definition.shell import FUNCTIONS
from harness.definition.variables import platform_arguments
from harness.definition.writer import PRIVATE_TMP, write_definition
from harness.errors import SpecError
from harness.image.driver import remove_tree
from harness.image.local_registry import PROGRAMS, LocalRegistry


def definition(text: str, context: str = "ctx") -> str:
    return write_definition(convert(parse_dockerfile(text, "Dockerfile"), context))


def without_guard(text: str) -> str:
    """%post without the lines that take the machine's /tmp out of a build's reach: tests run it on the machine."""
    for line in PRIVATE_TMP:
        text = text.replace(line + "\n", "")
    assert "umount" not in text
    return text


def section(text: str, name: str) -> list[str]:
    lines = text.splitlines()
    start = lines.index(f"%{name}") + 1
    end = next((i for i in range(start, len(lines)) if lines[i].startswith("%")), len(lines))
    return [line for line in lines[start:end] if line and not line.startswith("cp /.singularity.d/")]


def test_no_command_runs_while_the_machines_tmp_is_in_reach() -> None:
    text = definition("FROM debian AS a\nRUN rm -rf /tmp/*\nFROM debian\nCOPY --from=a /x /x\nRUN rm -rf /tmp/*\n")
    posts = text.split("%post\n")[1:]
    assert len(posts) == 2
    assert all(post.startswith("umask 022\n" + "\n".join(PRIVATE_TMP) + "\n") for post in posts)


def test_a_long_run_keeps_its_lines_and_loses_only_its_comments() -> None:
    post = section(definition("FROM debian\nRUN echo a && \\\n    # why\n    echo 'b c'\n"), "post")
    assert post[-3:] == ["echo a && \\", "    echo 'b c'", ")"]
    # Docker joins lines inside single quotes, a shell does not: there the joined form is the faithful one.
    quoted = section(definition("FROM debian\nRUN printf 'a\\\nb'\n"), "post")
    assert quoted[-2] == "printf 'ab'"


def test_build_arguments_reach_from_and_run() -> None:
    text = definition("ARG BASE=debian:12\nFROM ${BASE}\nARG LEVEL=3\nRUN echo $LEVEL\n")
    assert "From: {{ BASE }}" in text
    assert section(text, "arguments") == ["BASE=debian:12", "LEVEL=3"]
    post = section(text, "post")
    assert post.index("={{ LEVEL }}") < post.index('export LEVEL="${argument_LEVEL}"')
    assert text.count("{{ BASE }}") == 1


def test_env_is_frozen_where_docker_freezes_it_and_reaches_run_and_the_image() -> None:
    text = definition('FROM debian\nENV A=1 B="x y"\nENV A=2 C=${A}-${B} PATH=/opt/bin:$PATH\nRUN true\n')
    expected = ['export A="2"', 'export B="x y"', 'export C="1-x y"', 'export PATH="/opt/bin:${base_PATH}"']
    assert section(text, "environment") == [". /.singularity.d/base-environment", *expected]
    assert [line for line in section(text, "post") if line.startswith("export C")] == ['export C="1-x y"']


def test_each_run_has_its_own_shell_directory_and_no_errexit(tmp_path: Path) -> None:
    text = definition("FROM debian\nWORKDIR /tmp\nRUN false; cd / && X=1\nRUN pwd > out$X\n")
    post = without_guard("\n".join(section(text, "post")))
    script = tmp_path / "post.sh"
    script.write_text(post.replace("/tmp", str(tmp_path)))
    subprocess.run(["/bin/sh", "-e", str(script)], check=True)
    assert (tmp_path / "out").read_text().strip() == str(tmp_path)


def run_post(text: str, folder: Path, *replaced: str) -> subprocess.CompletedProcess[str]:
    """%post on this machine, with its ``replaced`` paths below ``folder``."""
    post = without_guard("\n".join(section(text, "post")))
    for path in replaced:
        post = post.replace(path, f"{folder}{path}")
    return subprocess.run(["/bin/sh", "-e", "-c", post], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "run",
    [
        "RUN echo a # note \\\ntouch /x",
        "RUN echo a;# note \\\n    && touch /x",
        "RUN # note \\\ntouch /x",
        'RUN echo "b \\\nc\' " \'\\\n\' "# d" # note \\\ntouch /x',
    ],
)
def test_what_docker_comments_out_is_not_run(tmp_path: Path, run: str) -> None:
    """Docker joins the lines, so a comment goes on to the end of the RUN."""
    done = run_post(definition(f"FROM debian\n{run}\n"), tmp_path, "/x")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "x").exists()


def test_a_run_is_never_outside_of_its_workdir(tmp_path: Path) -> None:
    text = definition('FROM debian\nWORKDIR /w/deep\nRUN rm -rf /w\nRUN echo x >f\nRUN rm -rf /w\nRUN ["touch", "g"]\n')
    assert run_post(text, tmp_path, "/w").returncode == 0
    assert (tmp_path / "w/deep/g").is_file()
    impossible = definition("FROM debian\nWORKDIR /w/file\nRUN rm -rf /w/file && echo >/w/file\nRUN touch /w/ran\n")
    assert run_post(impossible, tmp_path, "/w").returncode != 0
    assert not (tmp_path / "w/ran").exists()


def test_a_failing_run_fails_the_build(tmp_path: Path) -> None:
    script = tmp_path / "post.sh"
    text = definition("FROM debian\nRUN true && false\nRUN true\n")
    script.write_text(without_guard("\n".join(section(text, "post"))))
    assert subprocess.run(["/bin/sh", "-e", str(script)], check=False).returncode != 0


def test_an_image_does_not_start_outside_of_its_workdir(tmp_path: Path) -> None:
    script = tmp_path / "runscript"
    script.write_text("\n".join(section(definition('FROM debian\nWORKDIR /no/such\nCMD ["pwd"]\n'), "runscript")))
    started = subprocess.run(["/bin/sh", str(script)], check=False, capture_output=True, text=True)
    assert (started.returncode, started.stdout) == (1, "")
    assert "WORKDIR /no/such is not in reach" in started.stderr


def test_a_folder_that_a_definition_cannot_name_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "my folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "Dockerfile").write_text("FROM debian:bookworm-slim\nCOPY a.txt /\n")
    refused = harness(tmp_path, "convert", "my folder/Dockerfile")
    assert refused.returncode == 2
    assert "'my folder'" in refused.stderr
    inside = harness(folder, "convert", "Dockerfile")
    assert inside.returncode == 0, inside.stderr
    assert section(inside.stdout, "files") == ["./a.txt /.harness-build/0/a.txt"]


def test_copy_comes_from_the_context_and_lands_in_order(tmp_path: Path) -> None:
    text = definition("FROM debian\nWORKDIR /app\nCOPY a.txt dir ./\nCOPY a.txt /etc/b.conf\n", "containers/x")
    assert section(text, "files") == [
        "containers/x/a.txt /.harness-build/0/a.txt",
        "containers/x/dir /.harness-build/1/dir",
        "containers/x/a.txt /.harness-build/2/a.txt",
    ]
    staged, target = tmp_path / "staging", tmp_path / "root"
    for index, name in ((0, "a.txt"), (2, "a.txt")):
        (staged / str(index)).mkdir(parents=True)
        (staged / str(index) / name).write_text("content")
    (staged / "1/dir/sub").mkdir(parents=True)
    (staged / "1/dir/sub/c").write_text("c")
    post = without_guard("\n".join(section(text, "post"))).replace("/.harness-build", str(staged))
    post = post.replace("/app", f"{target}/app").replace("/etc", f"{target}/etc")
    subprocess.run(["/bin/sh", "-e", "-c", post], check=True)
    assert (target / "app/a.txt").is_file()
    assert (target / "app/sub/c").is_file()
    assert (target / "etc/b.conf").read_text() == "content"
    assert not staged.exists()


@pytest.mark.parametrize(
    ("start", "arguments", "printed"),
    [
        ('CMD ["echo", "a b"]', [], "a b"),
        ('CMD ["echo", "a b"]', ["echo", "c  d"], "c  d"),
        ("CMD echo $((1 + 1))", [], "2"),
        ('ENTRYPOINT ["echo", "e"]\nCMD ["c"]', [], "e c"),
        ('ENTRYPOINT ["echo", "e"]\nCMD ["c"]', ["x", "y z"], "e x y z"),
        ("ENTRYPOINT echo shell", ["ignored"], "shell"),
    ],
)
def test_the_start_command_follows_dockers_rule(start: str, arguments: list[str], printed: str) -> None:
    script = "\n".join(section(definition(f"FROM debian\n{start}\n"), "runscript"))
    script = script.replace(". /.singularity.d/runscript.base", 'exec "$@"')  # a base with a CMD only
    done = subprocess.run(["/bin/sh", "-c", script, "sh", *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed


def test_no_start_command_inherits_the_bases() -> None:
    text = definition("FROM debian\nRUN true\n")
    assert section(text, "runscript") == ["SINGULARITY_NO_EVAL=1", ". /.singularity.d/runscript.base"]
    assert "\ncp /.singularity.d/runscript /.singularity.d/runscript.base\n" in text


def test_heredoc_and_exec_form_run() -> None:
    post = section(definition('FROM debian\nRUN <<EOF\necho one\necho two\nEOF\nRUN ["echo", "a b"]\n'), "post")
    assert "echo one" in post
    assert "exec echo 'a b'" in post


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("FROM a\nADD x.tar /\n", 2, "archive"),
        ("FROM a\nADD git@host:x.git /\n", 2, "git"),
        ("FROM a\nADD --checksum=md5:1 https://host/x /y\n", 2, "sha256"),
        ("FROM a\nRUN --mount=type=secret,id=x true\n", 2, "secret"),
        ("FROM a\nRUN --mount=type=ssh true\n", 2, "agent"),
        ("FROM a\nRUN --mount=type=bind,soruce=x,target=/y true\n", 2, "no option 'soruce'"),
        ("FROM a\nRUN --mount=type=cache,target=/y,sharing=shraed true\n", 2, "shared, private or locked"),
        ("FROM a\nRUN true\nENV UID=1000\n", 3, "USER_UID"),
        ("FROM a\nARG A-B=1\n", 2, "'A-B' is no name"),
        ("FROM a\nRUN true\nENV a\nRUN true\n", 3, "two arguments"),
        ("FROM a\nONBUILD FROM b\n", 2, "FROM cannot be a trigger"),
        ("FROM a\nCOPY <<EOF /x\na\r\nb\nEOF\n", 2, "line ends of two kinds"),
        ("FROM a\nRUN --network=none true\n", 2, "--network"),
        ("FROM a\nRUN --security=insecure true\n", 2, "--security"),
        ("FROM --platform=linux/s390x a\n", 1, "platform"),
        ("FROM scratch\n", 1, "scratch"),
        ("FROM a\nCOPY --from=2 x y\n", 2, "stage"),
        ("FROM a\nCOPY --parents x y\n", 2, "--parents"),
        ("FROM a\nCOPY *.txt /x/\n", 2, "not here"),
        ("FROM a\nCOPY ../x /x/\n", 2, "outside"),
        ("FROM a\nCOPY a b /x\n", 2, "folder"),
        ("FROM a\nARG X=1\nARG X=2\n", 3, "default"),
        ("FROM a\nARG X=$PATH\n", 2, "environment"),
        ("FROM a\nLABEL a=' b'\n", 2, "label"),
        ("FROM a\nLABEL '#a'=b\n", 2, "label"),
        ("FROM a\nHEALTHCHECK CMD echo '{{ x }}'\n", 2, "{{"),
        ("FROM a\nCOPY --from=b --exclude=x /y /z\n", 2, "--exclude"),
        ("FROM a\nENV a-b=c\n", 2, "name"),
        ("FROM a\nSHELL bash\n", 2, "JSON"),
        ("FROM a\nCMD []\n", 2, "ENTRYPOINT"),
        ("FROM a\nWORKDIR /${HOME}\n", 2, "does not define"),
        ("ARG V\nFROM a AS base-cpu\nFROM base-${V}\n", 3, "chooses a stage (base-cpu)"),
        ("FROM a AS x\nFROM b AS y\nCOPY --from=x /n /m\nFROM c AS x\nFROM y\n", 3, "no stage above"),
        (f"FROM a\nADD --checksum=sha256:{'0' * 64} x /y\n", 2, "address"),
        ("FROM a\nARG V=1\nENV A=${V%x}\n", 3, "only of an ENV whose text is known"),
        ("FROM a\nENV A=${PATH#/}\n", 2, "only of an ENV whose text is known"),
        ("RUN true\nFROM a\n", 1, "FROM"),
        ("FROM a\nNONSENSE x\n", 2, "unknown instruction"),
        ('FROM a\nENV A="x\n', 2, "quote"),
    ],
)
def test_what_a_definition_cannot_say_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(SpecError) as error:
        definition(text)
    assert str(error.value).startswith(f"Dockerfile:{line}:")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_definition_holds_the_functions_that_its_commands_call() -> None:
    text = definition(
        "FROM debian AS a\nRUN echo x > /x\nFROM debian\nCOPY --from=a --chown=app /x /y\n"
        "RUN --mount=type=cache,target=/c true\nUSER app\nWORKDIR /w\nRUN true\n"
    )
    for name in ("receive", "received", "own", "owner", "folder", "copy", "mount_in", "mount_out", "run_as"):
        assert f"\n{name}() " in text, name
    assert "\nsend() (" in text.partition("\nBootstrap:")[0]


# --- HEALTHCHECK -------------------------------------------------------------------------------


def health_section(text: str) -> str | None:
    return convert(parse_dockerfile(text, "Dockerfile"), "ctx", healthcheck_as_test=True).test


def test_a_health_check_is_a_label_unless_it_is_asked_for_as_a_test(tmp_path: Path) -> None:
    text = "FROM debian\nHEALTHCHECK --interval=5s --timeout=1m30s CMD test -e '/a b' || exit 1\n"
    assert "%test" not in definition(text)
    assert "docker.healthcheck --interval=5s --timeout=1m30s CMD test -e '/a b' || exit 1" in definition(text)
    body = health_section(text)
    assert body is not None
    assert "timeout 90 /bin/sh -c 'test -e '\\''/a b'\\'' || exit 1' || " in body
    assert health_section("FROM debian\nHEALTHCHECK CMD true\nHEALTHCHECK NONE\n") is None
    assert health_section("FROM debian\nRUN true\n") is None
    inherited = health_section('FROM debian AS a\nHEALTHCHECK CMD ["a", "b c"]\nFROM a\nWORKDIR /w\n')
    assert inherited is not None
    assert inherited.startswith("cd /w || { echo ")
    assert "timeout 30 a 'b c' || " in inherited
    bash = health_section('FROM debian\nSHELL ["/bin/bash", "-c"]\nHEALTHCHECK --timeout=0s CMD [[ a ]]\n')
    assert bash is not None
    assert "timeout 30 /bin/bash -c '[[ a ]]' || " in bash

    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(text.replace("debian", "debian:bookworm"))
    plain = harness(tmp_path, "convert", str(dockerfile))
    assert plain.returncode == 0
    assert "note: " in plain.stderr
    assert "--healthcheck-as-test" in plain.stderr
    asked = harness(tmp_path, "convert", str(dockerfile), "--healthcheck-as-test")
    assert asked.stderr == ""
    assert asked.stdout != plain.stdout
    assert "\n%test\n" in asked.stdout


def test_a_timeout_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match="Dockerfile:2: HEALTHCHECK: 'soon' is no duration"):
        health_section("FROM debian\nHEALTHCHECK --timeout=soon CMD true\n")


@pytest.mark.apptainer
@pytest.mark.skipif(shutil.which("apptainer") is None, reason="no apptainer: scripts/install-apptainer")
@pytest.mark.parametrize(
    ("check", "complaint"),
    [
        ("CMD test -s /etc/passwd", ""),
        ('CMD ["grep", "-q", "nobody is here", "/etc/passwd"]', "HEALTHCHECK of Dockerfile:2 failed: exit status 1"),
        ("--timeout=200ms CMD sleep 60", "HEALTHCHECK of Dockerfile:2 failed: exit status 124"),
    ],
)
def test_a_health_check_as_a_test_is_run_by_a_real_engine(
    built_project: Path, tmp_path: Path, check: str, complaint: str
) -> None:
    """%test of a converted Dockerfile, built on an image that is there."""
    converted = convert(parse_dockerfile(f"FROM x\nHEALTHCHECK {check}\n", "Dockerfile"), ".", healthcheck_as_test=True)
    parent = exported(built_project, tmp_path / "parent.sif")
    text = write_definition(replace(converted, bootstrap="localimage", base=str(parent), runscript=None))
    (tmp_path / "x.def").write_text(text)
    sandbox = tmp_path / "sandbox"
    command = ["apptainer", "build", "--fakeroot", "--sandbox", str(sandbox), str(tmp_path / "x.def")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode == 0) == (not complaint), done.stderr
    assert complaint in done.stderr + done.stdout
    remove_tree(sandbox)


def test_a_download_with_another_checksum_ends_the_build(tmp_path: Path) -> None:
    wanted = hashlib.sha256(b"weights").hexdigest()
    post = section(definition(f"FROM debian\nADD --checksum=sha256:{wanted} http://x.example/y /y\n"), "post")
    call = next(line for line in post if line.startswith("check_sum "))
    script = "\n".join(["set -e", FUNCTIONS["check_sum"], f"check_sum {call.split()[1]} {tmp_path}/y", "echo went on"])
    for content, goes_on in (("weights", True), ("weightz", False)):
        (tmp_path / "y").write_text(content)
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
        assert ("went on" in done.stdout) == (done.returncode == 0) == goes_on


# --- the command -------------------------------------------------------------------------------


def write_mistakes(folder: Path) -> None:
    """A folder with what people get wrong."""
    (folder / "Dockerfile").write_text("FROM debian:bookworm\nCOPY . /x/\n")
    (folder / "folder").mkdir()
    (folder / "plain").mkdir()
    (folder / "plain/Dockerfile").write_text("FROM debian:bookworm\nRUN true\n")
    latin = folder / "latin"
    latin.mkdir()
    (latin / "Dockerfile").write_text("FROM debian:bookworm\nCOPY . /x/\n")
    (latin / ".dockerignore").write_bytes("caf\u00e9\n".encode("latin-1"))
    odd = folder / "odd"
    odd.mkdir()
    (odd / "Dockerfile").write_text("FROM debian:bookworm\nCOPY . /x/\n")
    Path(os.fsdecode(bytes(odd) + b"/caf\xe9")).write_text("")
    (folder / "list.json").write_text("[]")
    (folder / "number.json").write_text('{"config": {"User": 7}}')


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["folder"], "folder: is a folder; name the file: folder/Dockerfile"),
        (["none"], "none: no such file"),
        (["Dockerfile", "-o", "none/x.def"], "none/x.def: --output: its folder is not there"),
        (["Dockerfile", "-o", "folder"], "folder: --output: is a folder"),
        (["latin/Dockerfile"], "latin/.dockerignore: not UTF-8 text at byte 3"),
        (["odd/Dockerfile"], "odd/Dockerfile:2: COPY: a name in the context is not UTF-8"),
        (["Dockerfile", "--base-config", "none.json"], "none.json: cannot be read"),
        (["Dockerfile", "--base-config", "Dockerfile"], "Dockerfile: no JSON"),
        (["Dockerfile", "--base-config", "list.json"], "list.json: no image's configuration"),
        (["Dockerfile", "--base-config", "number.json"], "number.json: 'User' is no text"),
        (["plain/Dockerfile", "--verify", "--context", "none"], "none: --context: the build context is no folder"),
        (["plain/Dockerfile", "--context", "none"], "none: --context: the build context is no folder, and nothing is"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    write_mistakes(tmp_path)
    done = harness(tmp_path, "convert", *arguments)
    assert done.returncode == 2
    assert f"error: {words}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_is_converted_takes_the_place_of_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    write_mistakes(tmp_path)
    (tmp_path / "real.def").write_text("old")
    (tmp_path / "x.def").symlink_to("real.def")
    (tmp_path / "same").hardlink_to(tmp_path / "real.def")
    for output in ("x.def", "/dev/stdout"):
        done = harness(tmp_path, "convert", "plain/Dockerfile", "-o", output)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.def").is_symlink()
    assert (tmp_path / "real.def").read_text() == done.stdout
    assert (tmp_path / "same").read_text() == "old"  # who reads it meanwhile reads the old one to its end
    assert not list(tmp_path.glob(".*def*"))

    # Of a context that is elsewhere plain names can be copied.
    (tmp_path / "plain/Dockerfile").write_text("FROM debian:bookworm\nCOPY a /a\n")
    assert harness(tmp_path, "convert", "plain/Dockerfile", "--context", "none").returncode == 0


def test_a_file_that_only_looks_packed_is_added_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "broken.gz").write_bytes(bytes.fromhex("1f8b0800000000000003") + b"\xff" * 300)
    (tmp_path / "Dockerfile").write_text("FROM debian:bookworm\nADD broken.gz /x/\n")
    done = harness(tmp_path, "convert", "Dockerfile")
    assert done.returncode == 0, done.stderr
    assert "\ncopy " in done.stdout
    assert "unpack" not in done.stdout


# --- what a base says --------------------------------------------------------------------------

IMAGE = "application/vnd.oci.image"


def push(registry: LocalRegistry, name: str, config: dict[str, object]) -> str:
    """An image without layers, for this platform and another, in a real registry; returns its reference."""
    address = f"http://{registry.host}/v2/{name}"

    def put(url: str, content: bytes, kind: str = "application/octet-stream") -> None:
        request = urllib.request.Request(url, content, {"Content-Type": kind}, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()

    def blob(content: bytes, kind: str) -> dict[str, object]:
        started = urllib.request.Request(f"{address}/blobs/uploads/", b"", method="POST")
        with urllib.request.urlopen(started, timeout=30) as answer:
            place = answer.headers["Location"]
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        put(f"{place}&digest={digest}", content)
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def manifest(document: dict[str, object], kind: str, tag: str = "") -> dict[str, object]:
        content = json.dumps({"schemaVersion": 2, "mediaType": kind, **document}).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        put(f"{address}/manifests/{tag or digest}", content, kind)
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    here, images = platform_arguments()["TARGETARCH"], []
    for architecture, said in (("s390x", {"WorkingDir": "/other"}), (here, config)):
        document = {"os": "linux", "architecture": architecture, "config": said, "rootfs": {"type": "layers"}}
        described = blob(json.dumps(document).encode(), f"{IMAGE}.config.v1+json")
        image = manifest({"config": described, "layers": []}, f"{IMAGE}.manifest.v1+json")
        images.append({**image, "platform": {"os": "linux", "architecture": architecture}})
    manifest({"manifests": images}, f"{IMAGE}.index.v1+json", tag="1")
    return f"{registry.host}/{name}:1"


@pytest.mark.skipif(
    not any(map(shutil.which, PROGRAMS)), reason="no registry server: scripts/install-packages registry"
)
def test_what_a_base_says_is_read_from_its_registry_or_given_by_hand_or_taken_for_granted_aloud(tmp_path: Path) -> None:
    said = {"WorkingDir": "/workspace", "User": "app", "Shell": ["/bin/bash", "-c"], "OnBuild": ["RUN fired"]}
    (tmp_path / "train.py").write_text("")
    dockerfile = tmp_path / "Dockerfile"
    with LocalRegistry(tmp_path / "storage", read_only=False) as registry:
        base = push(registry, "team/base", said)
        plain = push(registry, "team/plain", {"Env": ["A=b"]})
        dockerfile.write_text(
            f"ARG BASE={base}\nFROM {plain} AS first\nRUN true\nFROM $BASE\nCOPY train.py .\nRUN pwd\n"
        )
        asked = harness(tmp_path, "convert", "Dockerfile")
    assert asked.returncode == 0, asked.stderr
    words = "user app, working directory /workspace, shell /bin/bash -c, ONBUILD RUN fired"
    assert asked.stderr == f"note: Dockerfile: base {base} says: {words}; the definition is written for that\n"
    assert "/train.py /workspace /workspace\n" in asked.stdout
    assert "run_as app /bin/bash -c fired" in asked.stdout

    offline = harness(tmp_path, "convert", "Dockerfile")
    assert offline.returncode == 0
    [line] = offline.stderr.splitlines()
    assert f"note: Dockerfile: base {base} not looked at" in line
    assert "user root, working directory /, shell /bin/sh -c, no ONBUILD" in line
    assert "--base-config FILE" in line
    assert "/train.py / /\n" in offline.stdout

    (tmp_path / "said.json").write_text(json.dumps({"architecture": "any", "config": said}))
    for option in ("said.json", f"{base}=said.json"):
        given = harness(tmp_path, "convert", "Dockerfile", "--base-config", option)
        assert (given.returncode, given.stderr, given.stdout) == (0, "", asked.stdout)
    other = harness(tmp_path, "convert", "Dockerfile", "--base-config", "other/image=said.json")
    assert other.returncode == 2
    assert "is for no base: docker.io/other/image:latest" in other.stderr
    dockerfile.write_text(dockerfile.read_text() + "COPY --from=first /etc/passwd /p\n")
    several = harness(tmp_path, "convert", "Dockerfile", "--base-config", "said.json")
    assert several.returncode == 2
    assert "--base-config IMAGE=FILE" in several.stderr
