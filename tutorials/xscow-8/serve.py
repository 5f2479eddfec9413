"""Serve a model of 72 billion parameters from two GPUs with vLLM, ask it, and measure it as its users see it.

The program starts the server on a free port, asks through the interface that OpenAI made common, and stops the server.
Each layer is shared by both GPUs (tensor parallelism). ``--backend transformers`` serves the same model through plain
transformers, layers dealt out over the GPUs, which then take turns: for comparison, by the same client, under its own
name.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments

# isort: split
from served_model import ServedModel
from service import main
from tiny_qwen2 import save_tiny_qwen2

# config.json as published
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 8192,
    "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "use_sliding_window": False, "torch_dtype": "bfloat16",
}  # fmt: skip
MODEL = ServedModel("Qwen", "Qwen2-72B-Instruct", CONFIG, save_tiny_qwen2, gpu_dtype="bfloat16")

if __name__ == "__main__":
    arguments = ProgramArguments(__doc__)
    arguments.parameter("tensor_parallel", 2, "GPUs (on CPUs: processes) that share every layer", minimum=1)
    main(arguments, MODEL, tutorial="xscow-8", step="serve")
