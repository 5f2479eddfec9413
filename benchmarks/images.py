"""How long it takes to bring a set of images up to date: `harness build` against plain `apptainer build`.

    benchmarks/images.py --quick                      a stack of a few megabytes, two tutorials
    benchmarks/images.py mnist 1 2                    these tutorials of the checkout
    benchmarks/images.py --whole-set                  all that have a CPU image; plain: one of each stack (an hour)
    benchmarks/images.py ... --table docs/benchmarks/images.md

Both build the same definitions from the same base image, served from this machine, with the same package mirrors, and
with nothing cached at the start. Plain Apptainer runs with its defaults (gzip). It has no cache: after any change, and
after none, it builds again what it built before, so each definition is built with it once and that time stands in all
rows. Of the whole set one tutorial of each stack is built plainly, and stands for the others of its stack, whose
definitions differ in a few small files. Of a program that has one more line in a function that an image's test does not
call, ours does not run that test again, which loads the program's libraries (harness/image/tested.py); plain Apptainer
runs all tests in both. Then come the bytes of all images, and how long the first one takes to start
(:mod:`starts`).
The work is done in a copy of the checkout below the cache folder (HARNESS_CACHE), which is removed in the end.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))  # the small project is the tests' one

from starts import COLD_RUNS, WARM_RUNS, Place, measure_starts, native_environment  # noqa: E402
from tiny_project import make_tiny_project  # noqa: E402

from harness.catalog.catalog import Catalog  # noqa: E402
from harness.definition.tutorial_image import Definitions, program_files  # noqa: E402
from harness.image.base import base_source  # noqa: E402
from harness.image.driver import BASE_ARGUMENT, remove_tree  # noqa: E402
from harness.image.engine import find_engine  # noqa: E402
from harness.image.lend import lending  # noqa: E402
from harness.project import Project, image_name  # noqa: E402
from harness.site import Mirrors  # noqa: E402
from harness.tutorial import Tutorial, load_tutorial, tutorial_ids  # noqa: E402

VARIANT = "cpu"
NO_CHANGE_RUNS = 3
FEW_ROWS = 3
ADDED_PACKAGE = "toolz==1.0.0"  # pure Python, without dependencies
STARTS = f"""\
A command in an image, and in a virtual environment of the same packages with compiled byte code. Median of {COLD_RUNS}
cold starts (the files were put out of the page cache before each) and of {WARM_RUNS} warm ones, in turn."""


@dataclass(frozen=True)
class Row:
    """One line of the table; seconds of wall time.

    Attributes:
        load: load average of the machine (1 minute) when ours had ended.
    """

    what: str
    plain: float
    ours: float
    load: float


@dataclass(frozen=True)
class Bench:
    """A copy of a checkout, with a cache of its own that holds nothing but base images.

    Attributes:
        is_whole_set: plain Apptainer builds one tutorial of each stack, which stands for the others.
    """

    root: Path
    work: Path
    is_quick: bool
    is_whole_set: bool = False

    @property
    def project(self) -> Project:
        return Project(self.root, self.work / "catalog", self.work / "cache")

    def plain_image(self, tutorial: Tutorial) -> Path:
        """Where the image of plain `apptainer build` is, its own or the one that stands for it."""
        return self.work / "plain" / f"{tutorial.stack if self.is_whole_set else tutorial.id}.sif"

    def ours(self, *arguments: str) -> float:
        """Seconds that a `harness` command takes."""
        environment = {**os.environ, "HARNESS_CACHE": str(self.work / "cache"), "CATALOG": str(self.work / "catalog")}
        return timed([sys.executable, "-m", "harness", *arguments], self.root, environment)

    def plain(self, tutorial: Tutorial) -> float:
        """Seconds that plain `apptainer build` takes for a tutorial's definition."""
        engine, definitions = find_engine(), Definitions(self.project)
        reference = dict(definitions.tutorial(tutorial, VARIANT).arguments)[BASE_ARGUMENT]
        stack, _ = definitions.stack(tutorial.stack, VARIANT)
        folder = Path(tempfile.mkdtemp(prefix="plain-", dir=self.work))
        try:
            indexes = stack.variants[VARIANT].extra_indexes if not find_links() else []
            with (
                base_source(reference, self.work / "cache") as base,
                lending(folder / "lent", indexes, Mirrors(), lambda line: None) as lent,
            ):
                environment = {**os.environ, "TMPDIR": str(folder), "APPTAINER_CACHEDIR": str(folder / "cache")}
                if base.insecure_http:
                    environment["APPTAINER_NOHTTPS"] = "1"
                command = [str(engine.path), "build", *(["--fakeroot"] if os.geteuid() == 0 else [])]
                for bind in lent.binds:
                    command += ["--bind", bind]
                self.plain_image(tutorial).parent.mkdir(exist_ok=True)
                command += ["--build-arg", f"{BASE_ARGUMENT}={base.resolved}", str(self.plain_image(tutorial))]
                command.append(str(self.project.definition_file(tutorial.stem, VARIANT)))
                return timed(command, self.root, environment)
        finally:
            remove_tree(folder)


def find_links() -> bool:
    """Whether this machine's pip has package folders of its own: then a stack's further indexes are not needed."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    return "find-links" in listed.stdout


def timed(command: Sequence[str], folder: Path, environment: dict[str, str]) -> float:
    """Wall time of a command that must succeed."""
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    seconds = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\nerror: {' '.join(command)} failed")
    return seconds


def copy_of_checkout(target: Path, tutorials: Sequence[str]) -> None:
    """What builds need of the checkout, with these tutorials alone."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("containers", "sites", "harness", "jobs"):
        shutil.copytree(REPOSITORY / name, target / name, ignore=ignore)
    (target / "runs").mkdir()
    for name in tutorials:
        folder = load_tutorial(Project(REPOSITORY), name).id
        shutil.copytree(REPOSITORY / "tutorials" / folder, target / "tutorials" / folder, ignore=ignore)


def with_cpu_images(project: Project) -> list[str]:
    """Ids of the tutorials that have an image of the variant."""
    return [name for name in tutorial_ids(project) if VARIANT in load_tutorial(project, name).resources]


def quick_project(target: Path) -> list[str]:
    """The tests' small project with a second tutorial."""
    make_tiny_project(target)
    other = target / "tutorials/xscow-3"
    shutil.copytree(target / "tutorials/xscow-2", other)
    spec = other / "tutorial.toml"
    spec.write_text(spec.read_text().replace('"xscow-2"', '"xscow-3"'))
    return ["2", "3"]


def change_a_function(project: Project, tutorial: Tutorial) -> None:
    """One more line, the last but one, in the longest function of a tutorial's files."""
    functions = [
        (path, node)
        for path in (project.root / file for file in program_files(tutorial))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    path, longest = max(functions, key=lambda found: (found[1].end_lineno or 0) - found[1].lineno)
    lines, last = path.read_text().splitlines(keepends=True), longest.body[-1]
    lines.insert(last.lineno - 1, " " * last.col_offset + 'print("one more line")\n')
    path.write_text("".join(lines))


def change_a_program(project: Project, tutorial: Tutorial) -> None:
    """One more line outside of functions, before a tutorial's first program begins its work."""
    program = project.tutorials / tutorial.program_folder / tutorial.steps[0].program
    begin = r"(?m)^(?=if __name__|run_program\()"
    program.write_text(re.sub(begin, "ONE_MORE_LINE = 1\n\n\n", program.read_text(), count=1))


EDITS = {"in a tutorial's longest function": change_a_function, "of a program outside of functions": change_a_program}


def add_package(bench: Bench, tutorial: Tutorial) -> str:
    """Add one package to the stack's lock; returns what was done, in words."""
    stack, _ = Definitions(bench.project).stack(tutorial.stack, VARIANT)
    lock = bench.project.stack_folder(tutorial.stack) / stack.variants[VARIANT].lock
    if bench.is_quick:
        lock.write_text(lock.read_text() + "# one more line\n")
        return "one line of the stack's lock file changed"
    folder = Path(tempfile.mkdtemp(dir=bench.work))
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d"]
    subprocess.run([*download, str(folder), ADDED_PACKAGE], check=True)
    digest = hashlib.sha256(next(folder.iterdir()).read_bytes()).hexdigest()
    lock.write_text(f"{lock.read_text().rstrip()}\n{ADDED_PACKAGE} --hash=sha256:{digest}\n")
    return f"one pip package added to the stack ({ADDED_PACKAGE})"


def measure(bench: Bench, names: Sequence[str]) -> list[Row]:
    """All rows, in the order in which a person would meet them."""
    tutorials = [load_tutorial(bench.project, name) for name in names]
    bench.ours("defs")
    built: dict[Path, float] = {}
    for tutorial in tutorials:
        image = bench.plain_image(tutorial)
        if image not in built:
            built[image] = bench.plain(tutorial)
            say(f"plain {tutorial.id} ({tutorial.stack}): {built[image]:.1f} s")
    plain = {tutorial.id: built[bench.plain_image(tutorial)] for tutorial in tutorials}
    whole, first = sum(plain.values()), tutorials[0]
    first_stack = sum(plain[tutorial.id] for tutorial in tutorials if tutorial.stack == first.stack)
    rows: list[Row] = []

    def add(what: str, against: float, *arguments: str, runs: int = 1) -> None:
        ours = statistics.median(bench.ours(*arguments) for _ in range(runs))
        rows.append(Row(what, against, ours, load()))
        say(f"{what}: {ours:.2f} s")

    together = ("build", "--all", "--jobs", str(os.cpu_count() or 2))
    add(f"the whole set of {len(tutorials)}, nothing cached but the base", whole, *together)
    add("nothing changed, the set", whole, *together, runs=NO_CHANGE_RUNS)
    add("nothing changed, one tutorial", plain[first.id], "build", first.id, runs=NO_CHANGE_RUNS)
    for where, edit in EDITS.items():
        lines = []
        for tutorial in tutorials:
            edit(bench.project, tutorial)
            seconds = bench.ours("build", tutorial.id)
            lines.append(Row(f"one more line {where}: {tutorial.id}", plain[tutorial.id], seconds, load()))
            say(f"{lines[-1].what}: {seconds:.2f} s")
        rows += spread(lines)
    add(add_package(bench, first), first_stack, *together)
    return rows


def load() -> float:
    """The machine's, over the last minute."""
    return os.getloadavg()[0]


def spread(rows: Sequence[Row]) -> list[Row]:
    """Of many rows those with the smallest, the median and the largest ratio; a few rows are all shown."""
    ordered = sorted(rows, key=lambda row: row.plain / row.ours)
    if len(ordered) <= FEW_ROWS:
        return ordered
    chosen = ((ordered[0], "smallest"), (ordered[len(ordered) // 2], "median"), (ordered[-1], "largest"))
    return [replace(row, what=f"{row.what} ({which} of {len(ordered)} ratios)") for row, which in chosen]


def sizes(bench: Bench, names: Sequence[str]) -> list[str]:
    """Rows of a table: bytes of the catalog against one plain image per tutorial; after :func:`measure`."""
    catalog = Catalog(bench.work / "catalog")
    catalog_gc = bench.ours("catalog", "gc", "--keep", "1")  # the measurements published some images twice
    say(f"gc: {catalog_gc:.1f} s")
    tutorials = [load_tutorial(bench.project, name) for name in names]
    plain = sum(bench.plain_image(tutorial).stat().st_size for tutorial in tutorials)
    count = len({tutorial.stack for tutorial in tutorials})
    stacks = "one stack" if count == 1 else f"{count} stacks"
    ours = sum(512 * path.lstat().st_blocks for path in catalog.root.rglob("*"))
    return [
        "| bytes of all images | plain, MB | ours, MB | ratio |",
        "|---|---|---|---|",
        f"| {len(names)} tutorials on {stacks} | {plain / 1e6:.0f} | {ours / 1e6:.0f} | {plain / ours:.1f} |",
    ]


def starts(bench: Bench, name: str) -> list[str]:
    """Rows of a table: how long the first tutorial's image takes to start; after :func:`measure`."""
    tutorial, catalog, engine = load_tutorial(bench.project, name), Catalog(bench.work / "catalog"), find_engine()
    manifest = catalog.current(image_name(tutorial.stem, VARIANT))
    if manifest is None:
        sys.exit(f"error: no image of {name} was published")
    stack, _ = Definitions(bench.project).stack(tutorial.stack, VARIANT)
    lock = bench.project.stack_folder(tutorial.stack) / stack.variants[VARIANT].lock
    native = native_environment(lock, bench.work / "native", stack.variants[VARIANT].python)
    execute = (str(engine.path), "exec", *engine.run_flags(), "--cleanenv", "--no-home")
    files, plain = catalog.files(manifest), bench.plain_image(tutorial)
    together = tuple(path for path in (files.main, files.stack) if path is not None)
    places = [
        Place("ours", (*execute, *files.engine_arguments), together),
        Place("plain", (*execute, str(plain)), (plain,)),
        native,
    ]
    return measure_starts(places)


def table(bench: Bench, rows: Sequence[Row], further: Sequence[str], names: Sequence[str]) -> str:
    """The page: what was measured, on what, by which command."""
    engine = find_engine()
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), "unknown processor")  # fmt: skip
    arguments = "--quick" if bench.is_quick else "--whole-set" if bench.is_whole_set else " ".join(names)
    once = "one tutorial of each stack" if bench.is_whole_set else "each definition"
    stands = "for all tutorials of its stack" if bench.is_whole_set else "in all rows it would be needed for"
    lines = [
        "# Building images: `harness build` against plain `apptainer build`",
        "",
        f"Written by `benchmarks/images.py {arguments}` on {datetime.now(timezone.utc):%Y-%m-%d}: "
        f"{engine.name} {engine.version}, {os.cpu_count()} cores of {cpu}.",
        "",
        "The stack is the tests' one of a few megabytes: fixed costs weigh more than in a real one."
        if bench.is_quick
        else f"Tutorials {', '.join(names)}, variant {VARIANT}.",
        "Seconds of wall time, each measured once (nothing changed: the median of three), on a machine whose other",
        f"work shows in the load (the 1-minute average when ours had ended). Plain Apptainer has no cache: {once}",
        f"was built with its defaults, and that time stands {stands}. Same base, same package mirrors.",
        "",
        "| what | plain, s | ours, s | ratio | load |",
        "|---|---|---|---|---|",
        *(
            f"| {row.what} | {row.plain:.1f} | {row.ours:.2f} | {row.plain / row.ours:.1f} | {row.load:.1f} |"
            for row in rows
        ),
        *further,
    ]
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    """A line for whoever waits."""
    sys.stderr.write(text + "\n")


def main() -> None:
    """Parse, measure, print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tutorials", nargs="*")
    parser.add_argument("--quick", action="store_true", help="a stack of a few megabytes")
    parser.add_argument("--whole-set", action="store_true", help="every tutorial that has a CPU image")
    parser.add_argument("--table", type=Path, help="write the page here, instead of standard output")
    options = parser.parse_args()
    if sum((options.quick, options.whole_set, bool(options.tutorials))) != 1:
        parser.error("name tutorials, or --quick, or --whole-set")
    given = Project.find(REPOSITORY)
    given.cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="bench-images-", dir=given.cache.absolute()))
    try:
        (work / "cache").mkdir()
        if (given.cache / "base").is_dir():
            (work / "cache/base").symlink_to(given.cache.absolute() / "base")
        root = work / "project"
        if options.quick:
            names: Sequence[str] = quick_project(root)
        else:
            names = options.tutorials or with_cpu_images(given)
            copy_of_checkout(root, names)
        bench = Bench(root, work, options.quick, options.whole_set)
        rows = measure(bench, names)
        further = ["", *sizes(bench, names)]
        if not options.quick:  # the small stack has neither torch nor anything to install beside
            further += ["", STARTS, "", *starts(bench, names[0])]
        page = table(bench, rows, further, names)
    finally:
        remove_tree(work)
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(page, encoding="utf-8")
    else:
        sys.stdout.write(page)


if __name__ == "__main__":
    main()
