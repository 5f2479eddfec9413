"""Ask a chat model of 4 billion parameters one question on one GPU, in 16 bits, and measure how fast it answers.

vLLM serves it, and a client asks through the interface that OpenAI made common. ``--backend transformers`` serves the
same model through plain transformers, with which the original answered: for comparison, by the same client, under its
own name.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments

# isort: split
from served_model import ServedModel
from service import main
from tiny_qwen3 import save_tiny_qwen3

# config.json as published, but for the type: this tutorial computes in float16
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 2560,
    "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "rope_theta": 5000000.0,
    "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": True, "use_sliding_window": False,
    "torch_dtype": "float16",
}  # fmt: skip
MODEL = ServedModel("Qwen", "Qwen3-4B-Instruct-2507", CONFIG, save_tiny_qwen3, gpu_dtype="float16")

if __name__ == "__main__":
    arguments = ProgramArguments(__doc__)
    arguments.parameter("tensor_parallel", 1, "GPUs (on CPUs: processes) that share every layer", minimum=1)
    main(arguments, MODEL, tutorial="scow-6", step="chat")
