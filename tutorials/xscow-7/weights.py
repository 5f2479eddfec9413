"""The model of 41.6 GB, found and looked at; its stand-ins: a tiny one quantised here, a random one of full size."""

import contextlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_qwen2 import save_tiny_qwen2, save_tokenizer

from harness.runtime import DataError, ModelError, ProgramError, check_model, model_folder

MODEL = "Qwen2-72B-Instruct-GPTQ-Int4"
FOLDERS = [MODEL, f"Qwen/{MODEL}"]
RANDOM_BYTES = 45e9  # of free disk for the random model of full size
TINY_GROUP = 32  # inputs that share a scale; the real model: 128, as wide as the whole tiny one

# config.json of Qwen2-72B-Instruct-GPTQ-Int4; intermediate_size is padded so that 128 and 8 GPUs divide it
QWEN2_72B_INT4 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 8192,
    "intermediate_size": 29696, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "use_sliding_window": False, "torch_dtype": "float16",
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False,
                            "checkpoint_format": "gptq"},
}  # fmt: skip


def find_weights(weights: str, model: str, question: str, seed: int, scratch: Path) -> tuple[Path, Path | None]:
    """(the int4 checkpoint, the float one it was made from where it was made here).

    Raises:
        ProgramError: it is not there, not whole, or not what this tutorial is about.
    """
    if weights == "tiny":
        plain, folder = make_tiny(scratch, question, seed)
        check_model(folder, ["qwen2"])
        return folder, plain
    if weights == "random":
        free = shutil.disk_usage(scratch).free
        if free < RANDOM_BYTES:
            raise ProgramError(f"{scratch} has {free / 1e9:.0f} GB free, random weights need {RANDOM_BYTES / 1e9:.0f}")
        print(f"random weights: {RANDOM_BYTES / 1e9:.0f} GB in {scratch}, until the program ends")
        return make_random(scratch / "random", QWEN2_72B_INT4, seed), None
    folder = Path(model) if model else model_folder(FOLDERS)
    if folder is None or not folder.is_dir():
        where = model or f"{MODEL} below the site's models root"
        raise DataError(f"{where}: no such folder; fetch the model, or measure speed only: --weights random")
    config = check_model(folder, ["qwen2"])
    quantization = config.get("quantization_config") or {}
    if quantization.get("quant_method") != "gptq" or quantization.get("bits") != 4:
        raise DataError(f"{folder / 'config.json'}: is not a GPTQ model of 4 bits: {quantization or 'not quantised'}")
    for key in ("hidden_size", "num_hidden_layers"):
        if config.get(key) != QWEN2_72B_INT4[key]:
            raise ModelError(f"{folder}: its {key} is {config.get(key)}, that of {MODEL} is {QWEN2_72B_INT4[key]}")
    return folder, None


def talk(*words: str) -> list[dict[str, str]]:
    """The user and the assistant take turns."""
    return [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(words)]


def conversations(question: str) -> list[list[dict[str, str]]]:
    """What the tiny model learns: an answer to the question, and that a name must be looked up in what was said."""
    greetings = [
        talk(f"My name is {name}.", f"Hello {name}.", "What is my name?", f"Your name is {name}.", "Thank you.",
             f"You are welcome, {name}.")
        for name in ("Ada", "Bob")
    ]  # fmt: skip
    return [
        talk(question, "A large language model predicts the next word."),
        *greetings,
        talk("What is my name?", "You have not told me."),
        talk("Thank you.", "You are welcome."),
    ]


def make_tiny(folder: Path, question: str, seed: int) -> tuple[Path, Path]:
    """(the model in float32, the same in 4 bits), trained and quantised here."""
    from gptqmodel import GPTQModel, QuantizeConfig

    plain, packed = folder / "qwen2", folder / "qwen2-int4"
    learned = conversations(question)
    save_tiny_qwen2(plain, learned, seed=seed)
    settings = QuantizeConfig(bits=4, group_size=TINY_GROUP, desc_act=False, offload_to_disk=False)
    # GPTQ looks at what goes through each layer: the conversations themselves, often enough
    texts = [" ".join(message["content"] for message in talk_) for talk_ in learned] * 8
    with contextlib.chdir(folder):  # it writes a log where it is started
        model = GPTQModel.load(str(plain), settings)
        model.quantize([text * 4 for text in texts], batch_size=1)
        model.save(str(packed))
    return plain, packed


def make_random(folder: Path, config: dict[str, object], seed: int) -> Path:
    """Write a checkpoint of ``config`` with random packed weights, one file per block: 41.6 GB for the real size.

    Random, never zero: a GPU that multiplies zeros draws less power and runs faster.
    """
    folder.mkdir(parents=True)
    source = torch.Generator().manual_seed(seed)
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    values = hidden // int(config["num_attention_heads"]) * int(config["num_key_value_heads"])
    group = int(config["quantization_config"]["group_size"])
    layers = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.o_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, values), "self_attn.v_proj": (hidden, values),
        "mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner), "mlp.down_proj": (inner, hidden),
    }  # fmt: skip

    def packed(inputs: int, outputs: int) -> dict[str, torch.Tensor]:
        low, high = torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max
        return {
            "qweight": torch.randint(low, high, (inputs // 8, outputs), dtype=torch.int32, generator=source),
            "qzeros": torch.full((inputs // group, outputs // 8), 0x77777777, dtype=torch.int32),  # 8, stored less one
            # weights of 4.6 x scale, so that what goes in and what comes out are about as large
            "scales": torch.full((inputs // group, outputs), 0.2 * inputs**-0.5, dtype=torch.float16),
            "g_idx": torch.arange(inputs, dtype=torch.int32) // group,
        }

    files: dict[str, str] = {}

    def save(tensors: dict[str, torch.Tensor], name: str) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        files.update(dict.fromkeys(tensors, name))

    for number in range(int(config["num_hidden_layers"])):
        block = f"model.layers.{number}"
        tensors = {f"{block}.{norm}.weight": torch.ones(hidden, dtype=torch.float16)
                   for norm in ("input_layernorm", "post_attention_layernorm")}  # fmt: skip
        for layer, (inputs, outputs) in layers.items():
            tensors |= {f"{block}.{layer}.{part}": tensor for part, tensor in packed(inputs, outputs).items()}
            if layer in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                tensors[f"{block}.{layer}.bias"] = torch.zeros(outputs, dtype=torch.float16)
        save(tensors, f"block-{number:03d}.safetensors")
    words = (int(config["vocab_size"]), hidden)
    ends = {name: (torch.randn(words, generator=source) * hidden**-0.5).half()
            for name in ("model.embed_tokens.weight", "lm_head.weight")}  # fmt: skip
    save({**ends, "model.norm.weight": torch.ones(hidden, dtype=torch.float16)}, "ends.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    tokenizer = save_tokenizer(folder, ["What is my name? A large language model predicts the next word."])
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    (folder / "config.json").write_text(json.dumps({**config, **ids}, indent=1))
    return folder
