"""LLaMA-Factory's own loader, given nothing but the folder where scow-5 registers and a name."""

import json
import sys
from pathlib import Path

import tiny_qwen2
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

FOLDER = Path("data/datasets")
plain = tiny_qwen2.save(Path("qwen2"))
version = next(name for name in json.loads((FOLDER / "dataset_info.json").read_text()) if name.startswith("identity@"))
for name in ("identity", "identity-pku-assistant", "identity-pku-assistant-sharegpt", version):
    model, data, training, _, _ = get_train_args(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": str(plain),
            "template": "qwen",
            "dataset": name,
            "dataset_dir": str(FOLDER),
            "cutoff_len": 512,
            "output_dir": "out",
            "overwrite_cache": True,
            "use_cpu": True,
            "report_to": "none",
        }
    )
    tokens = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(tokens["tokenizer"], data)
    loaded = get_dataset(template, model, data, training, stage="sft", **tokens)["train_dataset"]
    said = tokens["tokenizer"].decode(loaded[0]["input_ids"])
    assert "PKU Assistant" in said, said
    sys.stdout.write(f"loaded {name}: {len(loaded)}\n")
