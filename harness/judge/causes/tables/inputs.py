"""Models, data and the network they come over."""

from __future__ import annotations

from harness.judge.causes.cause import cause
from harness.judge.causes.matchers import raised, said

_LOOPBACK = r"localhost|127\.0\.0\.1|\[::1\]|0\.0\.0\.0"
# What a path of a missing file is most likely part of. Its own words decide, nothing else is known of it.
_MODEL_PATH = r"(?i:/models?/|/checkpoints?/|/weights/|model|tokenizer|\.safetensors|\.gguf|\.ckpt|\.pth?'|adapter_config|config\.json)"
_DATA_PATH = (
    r"(?i:/data/|/datasets?/|dataset|train\.(?:csv|json|parquet)|\.(?:csv|jsonl|parquet|arrow|ubyte)(?:\.gz)?')"
)
# harness/runtime/data.py, and programs that speak like it.
_DATA_INCOMPLETE = r"no such file|which is no folder here|the data set is incomplete"

CAUSES = (
    cause(
        "missing-model",
        "the model is not where the program looks for it",
        "在指定位置找不到模型",
        fix=(
            "put the model there or point MODELS (SCOW_AI_MODEL_PATH) at it; jobs do not download (HF_HUB_OFFLINE=1)",
            "把模型放到该位置，或用 MODELS（SCOW_AI_MODEL_PATH）指向它；作业不会联网下载（HF_HUB_OFFLINE=1）",
        ),
        by=(
            raised(
                r"OSError|EnvironmentError|ValueError|ValidationError|RuntimeError|ModelError",
                r"does not appear to have a file named|is not a local folder and is not a valid model identifier|Incorrect path_or_model_id"
                r"|[Nn]o file named .* found in directory|Can't load (?:the )?(?:tokenizer|model|configuration|feature extractor|image processor)"
                r"|Invalid repository ID or local directory specified|Unrecognized model in \S+ Should have a `model_type` key|Cannot find any model weights with",
            ),
            raised(r"HFValidationError"),
            said(r"error: model (?:incomplete|missing): |error: MODELS=\S+ is no folder"),
            raised(r"ModelError", r"the model is incomplete|which is no folder here|is not below the models root"),
            raised(
                r"OfflineModeIsEnabled|LocalEntryNotFoundError",
                r"offline mode is enabled|outgoing traffic has been disabled",
            ),
            raised(r"FileNotFoundError", rf"^(?!.*{_DATA_PATH}).*{_MODEL_PATH}"),
        ),
    ),
    cause(
        "missing-data",
        "the data set is not where the program looks for it, or is incomplete",
        "在指定位置找不到数据集，或数据集不完整",
        fix=(
            "fetch the data set before submitting, or point DATA (SCOW_AI_DATASET_PATH) at it",
            "提交前先下载数据集，或用 DATA（SCOW_AI_DATASET_PATH）指向它",
        ),
        by=(
            said(r"error: data set (?:incomplete|missing): |error: DATA=\S+ is no folder"),
            raised(r"FileNotFoundError", _DATA_PATH),
            raised(r"DataError", _DATA_INCOMPLETE),
            raised(r"RuntimeError", r"Dataset not found(?: or corrupted)?\. You can use download=True"),
            raised(
                r"\w+",
                r"Couldn't find any data file at|Couldn't find a dataset script|Unable to find '.*' with any supported extension",
            ),
        ),
    ),
    cause(
        "bad-data",
        "a data file is damaged or not of the expected kind",
        "数据文件已损坏或格式不符",
        fix=(
            "fetch the file named in the evidence again and compare its checksum",
            "重新下载证据中的文件，并核对校验和",
        ),
        by=(
            raised(r"DataError", rf"^(?!.*(?:{_DATA_INCOMPLETE}))"),
            raised(r"UnidentifiedImageError|BadGzipFile|BadZipFile|DatasetGenerationError|ArrowInvalid"),
            raised(r"EOFError", r"Compressed file ended before"),
            raised(r"OSError", r"image file is truncated"),
        ),
    ),
    cause(
        "missing-file",
        "a file the program needs is not there",
        "缺少程序需要的文件",
        fix=(
            "see the path in the evidence: it must exist inside the image, or be bound into it (--bind)",
            "查看证据中的路径：它必须存在于镜像中，或通过 --bind 挂载",
        ),
        by=(
            raised(
                r"FileNotFoundError|NotADirectoryError|IsADirectoryError", rf"^(?!.*(?:{_MODEL_PATH}|{_DATA_PATH}))"
            ),
        ),
    ),
    cause(
        "damaged-model",
        "a model file is damaged: cut short, or not a model at all",
        "模型文件已损坏：不完整，或根本不是模型文件",
        fix=(
            "fetch the file again and compare its size and checksum with the hub's (a git-lfs pointer is 130 bytes long)",
            "重新下载该文件，并与模型库的大小和校验和比对（git-lfs 指针文件只有约 130 字节）",
        ),
        by=(
            raised(
                r"ModelError", r": truncated: |: too long: |not a safetensors file|git-lfs pointer|holds no tensors"
            ),
            raised(r"SafetensorError", r"^(?!.*(?:os error|No such file|No space))"),
            raised(r"UnpicklingError", r"invalid load key|pickle data was truncated"),
            raised(
                r"RuntimeError", r"PytorchStreamReader failed|unexpected EOF, expected|failed finding central directory"
            ),
            raised(r"EOFError", r"Ran out of input"),
            raised(r"OSError", r"Unable to load weights from|checkpoint file .* is corrupt"),
        ),
    ),
    cause(
        "wrong-model",
        "the model is of another architecture than the program expects",
        "模型的架构与程序要求不符",
        fix=(
            "point the model path at the model the tutorial names; its config.json says which architecture it is",
            "把模型路径指向教程要求的模型；config.json 中写明了它的架构",
        ),
        by=(
            raised(r"ModelError", r"this program needs"),
            raised(r"RuntimeError", r"Error\(s\) in loading state_dict for|size mismatch for"),
            raised(
                r"ValueError|KeyError|ValidationError",
                r"does not recognize this architecture|Model architectures \[.*\] (?:are not supported|failed)"
                r"|Unrecognized configuration class",
            ),
        ),
    ),
    cause(
        "hub-access",
        "the model hub refused access: the model is gated or private, or has another name",
        "模型库拒绝访问：模型需要授权、是私有的，或名称有误",
        fix=(
            "accept the model's licence on its page and set HF_TOKEN, or use a copy the site holds",
            "在模型页面接受许可协议并设置 HF_TOKEN，或使用站点已有的副本",
        ),
        by=(
            raised(r"GatedRepoError|RepositoryNotFoundError"),
            raised(
                r"\w+",
                r"\b(?:401|403) Client Error|You are trying to access a gated repo|Access to model .* is restricted",
            ),
        ),
    ),
    cause(
        "no-network",
        "the node cannot reach the network",
        "节点无法访问外部网络",
        fix=(
            "fetch models and data on a login node before submitting; compute nodes have no way out",
            "提交前在登录节点下载模型和数据；计算节点不能访问外网",
        ),
        by=(
            raised(
                r"(?!Dist)\w+",
                rf"^(?!.*(?:{_LOOPBACK}))(?!.*(?:401|403) Client Error)(?!.*network addresses of).*"
                r"(?:Temporary failure in name resolution|Name or service not known|Network is unreachable|No route to host"
                r"|Failed to resolve '|Max retries exceeded with url|We couldn't connect to 'https?://|check your (?:internet )?connection)",
            ),
            said(r"curl: \((?:6|7|28)\) (?!.*(?:localhost|127\.0\.0\.1))"),
            said(r"wget: unable to resolve host address"),
            said(r"fatal: unable to access '\S+': (?:Could not resolve host|Failed to connect)"),
        ),
    ),
)
