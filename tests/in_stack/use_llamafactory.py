"""LLaMA-Factory trains a LoRA adapter of a tiny Qwen2 and merges it, through its command."""

import json
from pathlib import Path
from subprocess import run

import tiny_qwen2

plain = tiny_qwen2.save(Path("qwen2"))
data = Path("data")
data.mkdir()
records = [{"instruction": "Who are you?", "input": "", "output": f"Assistant {number}."} for number in range(8)]
data.joinpath("identity.json").write_text(json.dumps(records))
data.joinpath("dataset_info.json").write_text(json.dumps({"identity": {"file_name": "identity.json"}}))

# JSON is YAML; LLaMA-Factory 0.9.5 cannot read files named .json.
common = {"model_name_or_path": str(plain), "template": "qwen", "finetuning_type": "lora"}
train = {
    "stage": "sft",
    "do_train": True,
    "lora_target": "all",
    "dataset": "identity",
    "dataset_dir": "data",
    "cutoff_len": 64,
    "output_dir": "adapter",
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "report_to": "none",
    "use_cpu": True,
}
merge = {"adapter_name_or_path": "adapter", "export_dir": "merged", "export_device": "cpu"}
for name, settings in (("train", train), ("export", merge)):
    Path(f"{name}.yaml").write_text(json.dumps({**common, **settings}))
    run(["llamafactory-cli", name, f"{name}.yaml"], check=True)
assert Path("adapter/adapter_model.safetensors").is_file()
assert Path("merged/model.safetensors").is_file()
