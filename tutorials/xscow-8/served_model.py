"""The model that a tutorial serves: which it is, where it lies, and what stands in for it."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_qwen2 import Messages, save_tokenizer

from harness.runtime import DataError, ModelError, check_model, model_folder


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """The model a tutorial is about.

    Attributes:
        owner, name: on the hub.
        config: its config.json as published; the shape of ``--weights random``.
        save_tiny: writes a tiny model of the same architecture that knows conversations by heart.
        gpu_dtype: what a GPU computes the real model in; CPUs, and the tiny model, compute in float32.
    """

    owner: str
    name: str
    config: dict[str, Any]
    save_tiny: Callable[..., float]
    gpu_dtype: str

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])


def find_model(model: ServedModel, args: argparse.Namespace, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """(the model's folder, its config.json); a stand-in is made in ``scratch``.

    Raises:
        DataError, ModelError: it is not there, not whole, or of another architecture or size.
    """
    if args.weights == "tiny":
        said = [(args.question, "A large language model predicts the next word."), ("Thank you.", "You are welcome.")]
        talks: list[Messages] = [
            [{"role": "user", "content": ask}, {"role": "assistant", "content": reply}] for ask, reply in said
        ]
        model.save_tiny(scratch / "tiny", talks, seed=args.seed)
        return scratch / "tiny", check_model(scratch / "tiny", [model.model_type])
    if args.weights == "random":
        tokenizer = save_tokenizer(scratch / "random", [args.question])
        config = {**model.config, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
        (scratch / "random" / "config.json").write_text(json.dumps(config, indent=1))
        return scratch / "random", config
    folder = Path(args.model) if args.model else model_folder([model.name, f"{model.owner}/{model.name}"])
    if folder is None or not folder.is_dir():
        where = args.model or f"{model.name} below the site's models root"
        raise DataError(f"{where}: no such folder; fetch the model, or measure speed only: --weights random")
    config = check_model(folder, [model.model_type], ["tokenizer.json"])
    for key in ("hidden_size", "num_hidden_layers"):
        if config.get(key) != model.config[key]:
            raise ModelError(f"{folder}: its {key} is {config.get(key)}, that of {model.name} is {model.config[key]}")
    return folder, config
