"""All causes together. A new one is one entry in one of the tables, and one recorded log in ``tests/failures``."""

from __future__ import annotations

from harness.judge.causes.cause import Cause, Level, cause
from harness.judge.causes.tables import distributed, gpu, image, inputs, memory, scheduler
from harness.judge.causes.tables.program import RESIDUE, program_error

_SPECIFIC: tuple[Cause, ...] = (
    *scheduler.CAUSES,
    *memory.CAUSES,
    *gpu.CAUSES,
    *inputs.CAUSES,
    *image.CAUSES,
    *distributed.CAUSES,
)

CAUSES: tuple[Cause, ...] = (*_SPECIFIC, program_error(_SPECIFIC), *RESIDUE)

UNKNOWN = cause(
    "unknown",
    "nobody knows: neither scheduler, log nor result names a cause",
    "原因未知：调度器、日志和结果都没有说明",
    level=Level.RESIDUE,
    fix=(
        "read the whole log; if you find the cause there, tell the maintainers the line that shows it",
        "阅读完整日志；如果找到原因，请把说明原因的那一行告诉维护者",
    ),
    by=(),
)
