"""How many nodes and processes a job gets where a person asks for others than its tutorial says."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.errors import UserError
from harness.project import Variant
from harness.tutorial import Resources, Tutorial


@dataclass(frozen=True)
class Size:
    """What a person asked for; None: as the tutorial says.

    Attributes:
        nodes: of the job.
        processes: on each node; of the cuda variant each has a GPU of its own.
    """

    nodes: int | None = None
    processes: int | None = None

    @property
    def is_given(self) -> bool:
        return self.nodes is not None or self.processes is not None

    def options(self, tutorial: Tutorial, variant: Variant, gres: str) -> tuple[str, ...]:
        """Options of sbatch that ask for it: each process has the cores, memory and GPU that the tutorial gives one.

        Args:
            gres: the site's name for a GPU.

        Raises:
            UserError: the tutorial's work cannot be shared so.
        """
        needed = tutorial.resources.get(variant)
        if not self.is_given or needed is None:
            return ()
        self._check(tutorial, needed)
        found = [] if self.nodes is None else [f"--nodes={self.nodes}"]
        if self.processes is not None:
            times = self.processes / needed.processes_per_node
            found += [
                f"--cpus-per-task={math.ceil(needed.cpus * times)}",
                f"--mem={math.ceil(needed.memory_gb * 1024 * times)}M",
            ]
            if needed.gpus_per_node:
                found.append(f"--gres={gres}:{math.ceil(needed.gpus_per_node * times)}")
        return tuple(found)

    def environment(self) -> dict[str, str]:
        """What the job script is told; the number of nodes it asks the scheduler."""
        return {} if self.processes is None else {"PROCESSES": str(self.processes)}

    def _check(self, tutorial: Tutorial, needed: Resources) -> None:
        for name, asked, least in (
            ("nodes", self.nodes, needed.nodes),
            ("processes", self.processes, needed.processes_per_node),
        ):
            if asked is None or asked == least:
                continue
            if not tutorial.scales:
                raise UserError(
                    f"it cannot use --{name} {asked}: no step of it says that it scales",
                    where=tutorial.id,
                    fix=f"leave out --{name}",
                )
            if asked < least:
                raise UserError(f"--{name} {asked} is too few", where=tutorial.id, fix=f"give {least} or more")
