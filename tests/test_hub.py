"""Models fetched by the command people use from a real server on loopback: whole, resumed, or refused in a line."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from fault_proxy import Fault, fault_proxy, script
from hub_support import FILES, NAME, WANTED, WEIGHTS, contents, run_here, site
from tiny_hub import TinyHub
from tiny_project import HARNESS

from harness.lease import lease


def models(root: Path) -> Path:
    return root.parent / "models"


def fetch(root: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return run_here(root, "models", "fetch", NAME, *arguments, env=env)


@pytest.mark.parametrize("protocol", ["huggingface", "modelscope"])
def test_a_model_is_fetched_published_and_verified(supplied: Path, hub: TinyHub, protocol: str) -> None:
    site(supplied, **{protocol: [hub.address]})
    done = fetch(supplied)
    assert done.returncode == 0, done.stderr
    folder = models(supplied) / "counter"
    assert done.stdout == f"{NAME}: {folder}\n"
    assert contents(folder) == WANTED
    assert not list((models(supplied) / "hub").rglob("*.incomplete"))
    listed = run_here(supplied, "models", "list").stdout
    assert "tiny/counter" in listed and "counter" in listed.split("xscow-2 (full)")[0]
    verified = run_here(supplied, "models", "verify")
    assert verified.returncode == 0 and "5 files compared" in verified.stdout


def test_what_is_there_is_not_asked_for_again(supplied: Path, hub: TinyHub) -> None:
    site(supplied, huggingface=[hub.address])
    assert fetch(supplied).returncode == 0
    asked = len(hub.asked)
    again = fetch(supplied)
    assert "is here already" in again.stderr
    assert [path for path in hub.asked[asked:] if path != "/"] == [], "only the mirror was probed"
    hub.repositories[NAME] = {**FILES, "config.json": b'{"model_type": "counter", "new": true}'}
    assert fetch(supplied, "--again").returncode == 0
    assert b"new" in (models(supplied) / "counter/config.json").read_bytes()
    assert sum("resolve" in path for path in hub.asked[asked:]) == 1, "the rest was here"


def test_killed_in_the_middle_it_goes_on_where_it_was(supplied: Path, hub: TinyHub) -> None:
    site(supplied, huggingface=[hub.address])
    hub.hold_after = 1_000_000
    process = subprocess.Popen([HARNESS, "models", "fetch", NAME], cwd=supplied, stderr=subprocess.DEVNULL)
    assert hub.is_holding.wait(60)
    part = wait_for_bytes(models(supplied), 900_000)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (models(supplied) / "counter").exists(), "half of it is not published"
    hub.go_on.set()
    size = part.stat().st_size
    done = fetch(supplied, env={"HARNESS_LEASE_SECONDS": "0.1"})
    assert done.returncode == 0, done.stderr
    assert hub.ranges == [size] and size >= 900_000
    assert f"going on after {size / 1e6:.1f} MB" in done.stderr
    assert contents(models(supplied) / "counter") == WANTED


def wait_for_bytes(root: Path, size: int) -> Path:
    """The partial file, once the kernel has that much of it; the hub holds, so it comes."""
    while True:
        for part in root.rglob("*.incomplete"):
            if part.stat().st_size >= size:
                return part


def test_a_partial_file_of_other_bytes_is_fetched_anew(supplied: Path, hub: TinyHub) -> None:
    site(supplied, huggingface=[hub.address])
    assert fetch(supplied).returncode == 0
    blob = (models(supplied) / "counter/model.safetensors").resolve()
    shutil.rmtree(models(supplied) / "counter", ignore_errors=True)
    (models(supplied) / "counter").unlink()
    blob.unlink()
    blob.with_name(f"{blob.name}.incomplete").write_bytes(b"something else" * 1000)
    done = fetch(supplied)
    assert done.returncode == 0, done.stderr
    assert "once more from the start" in done.stderr
    assert contents(models(supplied) / "counter") == WANTED


def test_broken_off_and_troubled_it_asks_again(supplied: Path, hub: TinyHub) -> None:
    large = script("/large/", Fault(cut=2_000_000), Fault(status=503, retry_after="0"), Fault(cut=500_000))
    busy = script("/tree/", Fault(status=503, retry_after="0"))
    with fault_proxy(hub.address.removeprefix("http://"), large, busy) as proxy:
        hub.address = f"http://{proxy.host}"
        site(supplied, huggingface=[f"http://{proxy.host}"])
        done = fetch(supplied)
    assert done.returncode == 0, done.stderr
    assert contents(models(supplied) / "counter") == WANTED
    assert hub.ranges and hub.ranges == sorted(hub.ranges), "never from the start again"
    assert "asking again in" in done.stderr


def test_the_next_mirror_takes_over_in_the_middle(supplied: Path, hub: TinyHub) -> None:
    """The first mirror is dead, the second lists and then breaks off for good, the third goes on with its bytes."""
    breaks = script("/large/", Fault(cut=2_500_000), rest=Fault(status=404))
    with fault_proxy(hub.address.removeprefix("http://"), breaks) as proxy, hub_alone(hub) as third:
        hub.address = f"http://{proxy.host}"
        site(supplied, huggingface=["http://127.0.0.1:9", f"http://{proxy.host}", third.address])
        done = fetch(supplied)
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:9: passed over: connection refused" in done.stderr
    assert f"{proxy.host}: there is no such" in done.stderr and "trying the next hub" in done.stderr
    assert contents(models(supplied) / "counter") == WANTED
    assert third.ranges, "it goes on; how much a reset connection had delivered is chance"


def hub_alone(like: TinyHub):
    return TinyHub(like.repositories).running()


def test_another_protocol_takes_over_and_keeps_what_came(supplied: Path, hub: TinyHub) -> None:
    fails = script("config.json", rest=Fault(status=404))
    with fault_proxy(hub.address.removeprefix("http://"), fails) as proxy:
        site(supplied, huggingface=[f"http://{proxy.host}"], modelscope=[hub.address])
        done = fetch(supplied)
    assert done.returncode == 0, done.stderr
    assert contents(models(supplied) / "counter") == WANTED


@pytest.mark.parametrize(
    ("where", "fault", "words"),
    [
        ("/large/", Fault(flip=True), "where the hub lists sha256:"),
        ("/revision/", Fault(status=404), "there is no such"),
        ("/revision/", Fault(status=403), "set HF_TOKEN to your token"),
        ("/resolve/", Fault(status=401), "set HF_TOKEN to your token"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_nothing_is_published(
    supplied: Path, hub: TinyHub, where: str, fault: Fault, words: str
) -> None:
    with fault_proxy(hub.address.removeprefix("http://"), script(where, rest=fault)) as proxy:
        hub.address = f"http://{proxy.host}"
        site(supplied, huggingface=[f"http://{proxy.host}"])
        done = fetch(supplied, env={"HF_ENDPOINT": f"http://{proxy.host}"})
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (models(supplied) / "counter").exists()


def test_a_token_goes_to_the_hub_and_not_to_where_it_redirects(supplied: Path, hub: TinyHub) -> None:
    site(supplied, huggingface=[hub.address])
    assert fetch(supplied, env={"HF_TOKEN": "hf_tell_nobody"}).returncode == 0
    assert {host for host, token in hub.tokens if token == "Bearer hf_tell_nobody"} == {"127.0.0.1"}
    assert ("localhost", None) in hub.tokens


def test_a_wrong_name_and_a_wrong_hub_are_said(supplied: Path, hub: TinyHub) -> None:
    done = run_here(supplied, "models", "fetch", "tiny/coutner")
    assert done.returncode == 2 and "no tutorial needs 'tiny/coutner'; valid: tiny/counter" in done.stderr
    done = fetch(supplied, "--from", "somewhere")
    assert done.returncode == 2 and "valid: huggingface, modelscope" in done.stderr
    del hub.repositories[NAME]
    site(supplied, huggingface=[hub.address], modelscope=[hub.address])
    done = fetch(supplied)
    assert done.returncode == 1 and "there is no such repository" in done.stderr
    site(supplied)
    done = fetch(supplied)
    assert done.returncode == 1 and "127.0.0.1:9: connection refused" in done.stderr


def test_no_room_is_said_before_the_first_byte(supplied: Path, hub: TinyHub) -> None:
    hub.claimed = 10**18
    site(supplied, huggingface=[hub.address])
    done = fetch(supplied)
    assert done.returncode == 1
    assert "tiny/counter needs 1000000000.00 GB more" in done.stderr and "are free" in done.stderr
    assert not any("resolve" in path for path in hub.asked)


def test_damage_is_named_and_mended(supplied: Path, hub: TinyHub) -> None:
    site(supplied, huggingface=[hub.address])
    assert fetch(supplied).returncode == 0
    blob = (models(supplied) / "counter/tokenizer/vocab.txt").resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"one\ntwo\n4\n")
    done = run_here(supplied, "models", "verify", NAME)
    assert done.returncode == 1
    assert "counter/tokenizer/vocab.txt is damaged" in done.stdout
    assert "harness models fetch tiny/counter --again" in done.stdout
    assert fetch(supplied, "--again").returncode == 0
    assert run_here(supplied, "models", "verify", NAME).returncode == 0


def test_several_at_once_fetch_it_once(supplied: Path, hub: TinyHub) -> None:
    site(supplied, huggingface=[hub.address])
    command = [HARNESS, "models", "fetch", NAME]
    running = [subprocess.Popen(command, cwd=supplied, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert contents(models(supplied) / "counter") == WANTED
    assert sum(path.startswith("/large/") for path in hub.asked) == 1


def test_a_fetch_that_was_taken_for_dead_publishes_nothing(supplied: Path, hub: TinyHub) -> None:
    site(supplied, huggingface=[hub.address])
    hub.hold_after = 1_000_000
    environment = {**os.environ, "HARNESS_LEASE_SECONDS": "0.1"}
    process = subprocess.Popen(
        [HARNESS, "models", "fetch", NAME], cwd=supplied, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert hub.is_holding.wait(60)
    os.kill(process.pid, signal.SIGSTOP)
    with lease(models(supplied) / "hub/.leases", "tiny--counter", lambda _: None, interval_s=0.1):
        os.kill(process.pid, signal.SIGCONT)
        hub.go_on.set()
        said = process.communicate()[1]
    assert process.returncode == 1 and "was taken over by" in said
    assert not (models(supplied) / "counter").exists()


def test_a_shared_root_stays_open_to_its_group_and_closed_to_others(supplied: Path, hub: TinyHub) -> None:
    models(supplied).mkdir()
    models(supplied).chmod(0o2775)
    site(supplied, huggingface=[hub.address])
    umask = os.umask(0o077)
    try:
        assert fetch(supplied).returncode == 0
    finally:
        os.umask(umask)
    for path in models(supplied).rglob("*"):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_dir() and not path.is_symlink():
            assert mode == 0o2775, path
    blobs = [path for path in models(supplied).glob("hub/models--*/blobs/*") if path.is_file()]
    assert stat.S_IMODE(next(models(supplied).glob("hub/models--*/.lock")).stat().st_mode) == 0o664
    assert blobs and all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in blobs)


def test_a_folder_of_ones_own_is_left_alone(supplied: Path, hub: TinyHub) -> None:
    site(supplied, huggingface=[hub.address])
    own = models(supplied) / "counter"
    own.mkdir(parents=True)
    (own / "README").write_text("mine")
    done = fetch(supplied)
    assert done.returncode == 2 and "was not fetched by this command" in done.stderr
    (own / "config.json").write_text("{}")
    assert "is here already" in fetch(supplied).stderr
    verified = run_here(supplied, "models", "verify")
    assert verified.returncode == 0 and "no checksums to compare" in verified.stdout
    assert WEIGHTS not in contents(own).values()


def test_a_hub_that_lists_a_file_elsewhere_is_refused(supplied: Path, hub: TinyHub) -> None:
    hub.repositories[NAME] = {**FILES, "../../outside": b"evil"}
    site(supplied, huggingface=[hub.address])
    done = fetch(supplied)
    assert done.returncode == 1 and "outside of its repository" in done.stderr
    assert not list(supplied.parent.rglob("outside"))
