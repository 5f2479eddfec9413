"""FlagEmbedding encodes with a tiny bge-m3 in its three ways, and ranks with a tiny reranker."""

from pathlib import Path

import torch
from FlagEmbedding import BGEM3FlagModel, FlagReranker
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

SIZE = 64
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SENTENCES = ["What is BGE M3?", "BGE M3 is an embedding model.", "BM25 ranks documents."]

tokenizer = Tokenizer(models.Unigram())
tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
tokenizer.train_from_iterator(
    SENTENCES * 8, trainers.UnigramTrainer(vocab_size=64, special_tokens=SPECIALS, unk_token="<unk>")
)
tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
)
fast = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
    unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", model_max_length=512,
)  # fmt: skip
torch.manual_seed(0)
config = XLMRobertaConfig(
    vocab_size=len(fast),
    hidden_size=SIZE,
    intermediate_size=2 * SIZE,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=514,
    type_vocab_size=1,
    num_labels=1,
)
encoder, reranker = Path("bge-m3").absolute(), Path("bge-reranker").absolute()
for folder, model in (
    (encoder, XLMRobertaModel(config)),
    (reranker, XLMRobertaForSequenceClassification(config)),
):
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
torch.save(torch.nn.Linear(SIZE, SIZE).state_dict(), encoder / "colbert_linear.pt")
torch.save(torch.nn.Linear(SIZE, 1).state_dict(), encoder / "sparse_linear.pt")

m3 = BGEM3FlagModel(str(encoder), devices="cpu", use_fp16=False)
encoded = m3.encode(SENTENCES, return_dense=True, return_sparse=True, return_colbert_vecs=True)
assert encoded["dense_vecs"].shape == (3, SIZE)
assert len(encoded["lexical_weights"]) == len(encoded["colbert_vecs"]) == 3
scores = FlagReranker(str(reranker), devices="cpu", use_fp16=False).compute_score(
    [SENTENCES[:2], SENTENCES[::2]], normalize=True
)
assert len(scores) == 2
assert all(0 < score < 1 for score in scores)
