"""Run by a Python that has huggingface_hub and modelscope: what the real clients make of a hub, and of our folders.

    python tests/hub_clients.py download huggingface|modelscope TARGET     from the hub that the environment names
    python tests/hub_clients.py offline huggingface|modelscope             without one, from the caches it names

Prints the folder that the client found.
"""

import sys

NAME = "tiny/counter"


def main(what: str, protocol: str, target: str | None = None) -> str:
    offline = what == "offline"
    if protocol == "huggingface":
        from huggingface_hub import snapshot_download

        return snapshot_download(NAME, local_dir=target, local_files_only=offline, ignore_patterns=["onnx/*"])
    from modelscope import snapshot_download as modelscope_download

    return modelscope_download(NAME, local_dir=target, local_files_only=offline, ignore_patterns=["onnx/*"])


sys.stdout.write(f"found: {main(*sys.argv[1:])}\n")
