"""The ranks of a distributed program: how they meet, share work, add up numbers and part. Torch is an argument.

    with join_team(torch, device) as team:
        network = team.wrap(network, synced_batch_norm=True)
        rows = batch[team.part(len(batch))]
        loss = cross_entropy(network(images[rows]), labels[rows], reduction="sum") * team.size / len(batch)
        right, seen = team.add(right, seen)

One process is a team of one: nothing is wrapped, nothing is sent, the numbers are the same.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness.runtime import environment
from harness.runtime.batch_norm import synchronize_batch_norm
from harness.runtime.errors import DeviceError, ProgramError
from harness.runtime.files import write_json

MEETING_S = 300.0  # until the last rank is there: images start at different speeds on different nodes
SILENCE_S = 900.0  # a rank that waits longer than this for another gives up
POLL_S = 0.05
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Team:
    """All ranks of the step, seen from one of them.

    Attributes:
        rank: which one this is, from 0; rank 0 alone writes results.
        size: how many there are.
        device: what this rank computes on.
        members: one dict per rank: rank, node, pid, device.
    """

    torch: Any
    rank: int
    size: int
    device: Any
    members: tuple[dict[str, Any], ...]

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print it at once, for all: rank 0 does."""
        if self.is_first:
            print(text, flush=True)  # noqa: T201 - for the person who reads the job's log

    def part(self, count: int) -> slice:
        """This rank's share of ``count`` rows; shares differ by one row at most, together they are all rows."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def add(self, *values: float) -> list[float]:
        """Each value summed over all ranks, in double precision. Every rank must call it."""
        total = self.torch.tensor(values, dtype=self.torch.float64, device=self.device)
        if self.size > 1:
            self.torch.distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def wait(self) -> None:
        """Until every rank is here."""
        self.add(0)

    def agree(self, network: Any) -> None:
        """Give every rank the mean of the ranks' buffers: the running statistics of batch norm.

        Ranks that normalise by their own shares see other images and so run other statistics. Before a network is
        tested or saved they must agree, or each rank tests a network of its own and only rank 0's is saved.
        """
        if self.size == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                self.torch.distributed.all_reduce(buffer)
                buffer /= self.size

    def wrap(self, network: Any, *, synced_batch_norm: bool) -> Any:
        """``network`` with its gradients averaged over the ranks.

        Args:
            network: the same on every rank; rank 0's weights win.
            synced_batch_norm: take mean and variance over the whole global batch, so that the result does not depend
                on the number of ranks; else each rank takes its own, which costs nothing and is noisier.
        """
        if self.size == 1:
            return network
        if synced_batch_norm:
            network = synchronize_batch_norm(self.torch, network, self.device)
        return self.torch.nn.parallel.DistributedDataParallel(
            network,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )


@contextmanager
def join_team(torch: Any, device: Any) -> Iterator[Team]:
    """Meet the other ranks of the step; leave together when the body ends well.

    Raises:
        ProgramError: the others do not come, or there are fewer ranks than the job asked for.
        DeviceError: two ranks were given the same GPU.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    asked = int(os.environ.get(environment.PROCESSES) or 1) * int(os.environ.get(environment.NODES) or 1)
    if asked > size:
        raise ProgramError(
            f"the job asked for {asked} processes but {size} run; start the program with harness.runtime.launch"
        )
    member = {"rank": rank, "node": _node(), "pid": os.getpid(), "device": _device_id(torch, device)}
    if size == 1:
        yield Team(torch, rank, size, device, (member,))
        return
    store = _meet(torch, rank, size)
    store.set(f"member-{rank}", json.dumps(member))
    members = tuple(json.loads(store.get(f"member-{other}")) for other in range(size))
    _refuse_shared_gpus(members)
    options = {"device_id": device} if device.type == "cuda" else {}
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=torch.distributed.PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=SILENCE_S),
        **options,
    )
    team = Team(torch, rank, size, device, members)
    team.wait()
    if rank == 0 and os.environ.get(environment.RENDEZVOUS):
        Path(os.environ[environment.RENDEZVOUS]).unlink(missing_ok=True)
    yield team
    team.wait()  # nobody closes a connection that another still reads from
    torch.distributed.destroy_process_group()


def _meet(torch: Any, rank: int, size: int) -> Any:
    """The store all ranks talk through: rank 0 serves it on a port the kernel found free and writes down where.

    Where a platform has said where to meet (``harness.runtime.place``), rank 0 serves it there.
    """
    path, timeout = os.environ.get(environment.RENDEZVOUS), timedelta(seconds=MEETING_S)
    if not path:
        if not os.environ.get("MASTER_PORT"):
            raise ProgramError(f"{size} ranks but no {environment.RENDEZVOUS}; start with harness.runtime.launch")
        return _meet_at(torch, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), rank, size, timeout)
    meeting = Path(path)
    if rank == 0:
        store = torch.distributed.TCPStore("127.0.0.1", 0, size, True, timeout, wait_for_workers=False)
        write_json(meeting, {"addresses": _addresses(), "port": store.port, "boot_id": _boot_id()})
        return store
    where = _read_when_there(meeting)
    host = "127.0.0.1" if where["boot_id"] == _boot_id() else _reachable(where["addresses"], where["port"])
    return torch.distributed.TCPStore(host, where["port"], size, False, timeout, wait_for_workers=False)


def _meet_at(torch: Any, host: str, port: int, rank: int, size: int, timeout: timedelta) -> Any:
    try:
        address = "127.0.0.1" if rank == 0 else host
        return torch.distributed.TCPStore(address, port, size, rank == 0, timeout, wait_for_workers=False)
    except torch.distributed.DistNetworkError as error:
        reason = "is another job listening there?" if rank == 0 else "is rank 0 running, is there a firewall?"
        raise ProgramError(f"cannot meet at MASTER_ADDR {host}, MASTER_PORT {port}: {error}; {reason}") from None


def _read_when_there(meeting: Path) -> dict[str, Any]:
    deadline = time.monotonic() + MEETING_S
    while True:
        try:
            content: dict[str, Any] = json.loads(meeting.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise ProgramError(f"rank 0 did not appear within {MEETING_S:.0f} s ({meeting} is not there)") from None
            time.sleep(POLL_S)  # another node's file system tells nobody that a file has come
        else:
            return content


def _reachable(addresses: list[str], port: int) -> str:
    for address in addresses:
        try:
            with socket.create_connection((address, port), timeout=5):
                return address
        except OSError:
            continue
    raise ProgramError(f"rank 0 cannot be reached at {', '.join(addresses)}, port {port}; is there a firewall?")


def _addresses() -> list[str]:
    """How other nodes may reach this one: its name, and the address it would send from."""
    found = [socket.gethostname()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: nothing is sent
            found.insert(0, probe.getsockname()[0])
        except OSError:  # no route to anywhere: names must do
            pass
    return found


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()


def _node() -> str:
    return os.environ.get(environment.NODE) or socket.gethostname()


def _device_id(torch: Any, device: Any) -> str:
    if device.type != "cuda":
        return str(device.type)
    return str(getattr(torch.cuda.get_device_properties(device), "uuid", device))


def _refuse_shared_gpus(members: tuple[dict[str, Any], ...]) -> None:
    owner: dict[tuple[str, str], int] = {}
    for member in members:
        if member["device"] == "cpu":
            continue
        key = member["node"], member["device"]
        if key in owner:
            raise DeviceError(f"ranks {owner[key]} and {member['rank']} were given the same GPU on {member['node']}")
        owner[key] = member["rank"]
