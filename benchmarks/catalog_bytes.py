"""How much smaller a catalog is than one plain image per tutorial. Prints both sizes and their ratio.

    .venv/bin/python benchmarks/catalog_bytes.py [--tutorials 5] [--like 2]

Makes a project with copies of one tutorial of this checkout, all on its stack, publishes them twice with
`harness build` (as stack and layers; and with --no-overlay, one file system each, as plain `apptainer build` makes
them), and counts the bytes that each catalog takes on the disk. HARNESS_CACHE is used, so a stack that is cached is not
built again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.project import Project
from harness.tutorial import load_tutorial

HARNESS = Path(sys.executable).parent / "harness"
COPIED = ("containers", "sites", "harness/runtime", "harness/__init__.py")


def bytes_on_disk(root: Path) -> int:
    """What all files below a folder take; links count as themselves."""
    return sum(512 * path.lstat().st_blocks for path in root.rglob("*"))


def make_project(checkout: Project, root: Path, like: str, count: int) -> list[str]:
    """A project with ``count`` copies of a tutorial that differ in id and program; returns their ids."""
    for name in COPIED:
        source, target = checkout.root / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    pattern = load_tutorial(checkout, like)
    ids = [f"scow-{100 + number}" for number in range(1, count + 1)]
    for new in ids:
        folder = root / "tutorials" / new
        shutil.copytree(checkout.tutorials / pattern.id, folder, ignore=shutil.ignore_patterns("__pycache__"))
        spec = folder / "tutorial.toml"
        spec.write_text(spec.read_text(encoding="utf-8").replace(f'id = "{pattern.id}"', f'id = "{new}"', 1))
        for step in pattern.steps:
            with (folder / step.program).open("a", encoding="utf-8") as program:
                program.write(f"\n# {new}\n")
    return ids


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tutorials", type=int, default=5, help="how many tutorials on one stack")
    parser.add_argument("--like", default="2", help="the tutorial to copy")
    arguments = parser.parse_args()
    checkout = Project.find()
    checkout.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="catalog-bytes-", dir=checkout.cache) as folder:
        root = Path(folder)
        ids = make_project(checkout, root / "project", arguments.like, arguments.tutorials)
        sizes = {}
        for kind, flags in (("shared", []), ("plain", ["--no-overlay"])):
            catalog = root / kind
            environment = {**os.environ, "CATALOG": str(catalog), "HARNESS_CACHE": str(checkout.cache.absolute())}
            command = [str(HARNESS), "build", *ids, *flags]
            subprocess.run(command, cwd=root / "project", env=environment, check=True, stdout=subprocess.DEVNULL)
            sizes[kind] = bytes_on_disk(catalog)
            shutil.rmtree(catalog / "images")
            shutil.rmtree(catalog / "stacks", ignore_errors=True)
    for kind, size in sizes.items():
        print(f"{kind:<7} {size / 1e6:8.1f} MB")
    print(f"ratio   {sizes['plain'] / sizes['shared']:8.2f} x smaller, {arguments.tutorials} tutorials on one stack")


if __name__ == "__main__":
    main()
