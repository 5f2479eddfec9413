"""All that goes wrong with a download of hours, in seconds: on a hub of this machine, with files of random bytes."""

import hashlib
import multiprocessing
import random
from multiprocessing.connection import Connection
from pathlib import Path

from tiny_hub import TinyHub

from harness.runtime import ProgramError, StepRun, Throughput
from harness.runtime.hub.fetch import Hub, Protocol, Watcher, fetch
from harness.runtime.hub.files import Repository
from harness.runtime.hub.store import of_folder

MODEL = Repository("model", "tiny/random-weights")
NOBODY = Hub("huggingface", "http://127.0.0.1:9")  # a mirror that is down: nothing listens on that port
WINDOWS = 6
quiet = Watcher(lambda _: None)


def make_files(size_mb: int, seed: int) -> dict[str, bytes]:
    """A model's files: a small one, and weights in three shards of different bytes."""
    rng = random.Random(seed)
    shards = {f"model-0000{n}-of-00003.safetensors": rng.randbytes(size_mb * 1_000_000 // 3) for n in (1, 2, 3)}
    return {"config.json": b'{"model_type": "random"}', **shards}


def bring(hubs: list[Hub], root: Path, told: Connection | None = None) -> None:
    """Download, telling through a pipe after every piece; run by a process of its own, which may be killed."""
    fetch(hubs, MODEL, root, "model", Watcher(print, moved=told.send if told else lambda _: None))


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def kill_in_the_middle(hub: TinyHub, hubs: list[Hub], root: Path, enough: int) -> int:
    """Start a download and kill it, as a time limit does, when so many bytes are on the disk; the exit code."""
    ours, its = multiprocessing.Pipe(duplex=False)
    hub.hold_after = enough // 2  # of each shard: the hub falls silent, so the download cannot end before the kill
    process = multiprocessing.get_context("spawn").Process(target=bring, args=(hubs, root, its))
    process.start()
    its.close()
    came = 0
    while came < enough:
        try:
            came += ours.recv()
        except EOFError:
            raise ProgramError(f"the download ended after {came} bytes, before it could be killed") from None
    process.kill()
    process.join()
    hub.go_on.set()
    return int(process.exitcode or 0)


def rehearse(run: StepRun, scratch: Path, size_mb: int, seed: int) -> None:
    """Kill and resume, two at once, another protocol, a damaged file: each a real download, each checked by SHA-256."""
    files = make_files(size_mb, seed)
    wanted = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    total = sum(len(data) for data in files.values())
    with TinyHub({MODEL.name: files}).running() as hub:
        hubs = [NOBODY, Hub("huggingface", hub.address)]

        resumed = scratch / "resumed"
        run.output("killed_with", kill_in_the_middle(hub, hubs, resumed, total // 3))
        run.output("published_half", (resumed / "model").exists())
        bring(hubs, resumed)
        run.output("resumed_from_mb", round(sum(hub.ranges) / 1e6, 3))
        run.output("resumed_equal", sums(resumed / "model") == wanted)

        before, together = len(hub.asked), scratch / "together"
        spawn = multiprocessing.get_context("spawn")
        both = [spawn.Process(target=bring, args=(hubs, together)) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join()
        run.output("together_equal", sums(together / "model") == wanted and not any(p.exitcode for p in both))
        run.output("together_downloads", sum(path.startswith("/large/") for path in hub.asked[before:]))

        protocol: Protocol = "modelscope"
        bring([Hub(protocol, hub.address)], scratch / "modelscope")
        run.output("modelscope_equal", sums(scratch / "modelscope/model") == wanted)

        shard = together / "model/model-00002-of-00003.safetensors"
        shard.chmod(0o644)
        with shard.open("r+b") as stream:
            stream.seek(1000)
            stream.write(bytes([files[shard.name][1000] ^ 1]))
        store = of_folder(together, together / "model")
        run.output("damaged", [wrong.path.name for wrong in store.verify(together / "model")] if store else [])

        meter = Throughput(warm_up=1)
        for number in range(1 + WINDOWS):
            with meter.window(units=total / 1e6):
                fetch(hubs[1:], MODEL, scratch / f"pass-{number}", "model", quiet)
        run.throughput("download_speed", meter, unit="MB/s")
