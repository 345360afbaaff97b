"""Hugging Face folder -> GGUF: BERT and DistilBERT, with their heads for classification.

    config.json ─► {arch}.* keys          *.safetensors ─► tensors, renamed and stored as `outtype`
    modules.json, 1_Pooling ─► pooling    tokenizer.json or vocab.txt ─► tokenizer.ggml.* (convert_vocab.py)

Mirrors convert_hf_to_gguf.py (llama.cpp: conversion/base.py, conversion/bert.py), so that the file is the one it writes: the
same names, types, values and bytes, in the same order. tests/data holds what that program wrote.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from refembed.arrays import U8
from refembed.convert_vocab import load_json, read_json, read_vocab
from refembed.convert_vocab import ID_KEYS
from refembed.errors import ModelError, RequestError
from refembed.gguf import BY_NAME, GGUFWriter
from refembed.gguf.cursor import shown
from refembed.safetensors import Entry, SafetensorsFile

Progress: TypeAlias = Callable[[str, int, int], None]  # what is being done, how far, of how much; in bytes

OUTTYPES = {"f32": ("F32", 0), "f16": ("F16", 1), "bf16": ("BF16", 32), "q8_0": ("Q8_0", 7)}  # type, general.file_type
POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}  # {arch}.pooling_type: enum llama_pooling_type
GELUS = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_accurate")
NO_EFFECT = ("Transformer", "Pooling", "Normalize", "Dropout")  # modules that need no weights of their own in the file


@dataclass(frozen=True)
class Family:
    """Models whose checkpoints are built alike."""

    prefix: str  # of tensor names, where a head stands beside the model
    keys: dict[str, str]  # what GGUF calls a size -> what config.json calls it
    defaults: dict[str, Any]  # what config.json leaves out, the library's own defaults
    dropped: tuple[str, ...]  # tensors of heads that embeddings do not need
    column: int  # of TENSORS


BERT = Family(
    prefix="bert.",
    keys={
        "block_count": "num_hidden_layers",
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
    },
    defaults={
        "num_hidden_layers": 12,
        "max_position_embeddings": 512,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "vocab_size": 30522,
        "pad_token_id": 0,
        "hidden_act": "gelu",
    },
    dropped=("embeddings.position_ids", "pooler.dense.", "cls.predictions", "cls.seq_relationship"),
    column=2,
)
DISTILBERT = Family(
    prefix="distilbert.",
    keys={
        "block_count": "n_layers",
        "context_length": "max_position_embeddings",
        "embedding_length": "dim",
        "feed_forward_length": "hidden_dim",
        "attention.head_count": "n_heads",
    },
    defaults={
        "n_layers": 6,
        "max_position_embeddings": 512,
        "dim": 768,
        "hidden_dim": 3072,
        "n_heads": 12,
        "layer_norm_eps": 1e-12,  # in the code, in no configuration
        "type_vocab_size": 1,
        "vocab_size": 30522,
        "pad_token_id": 0,
        "activation": "gelu",
    },
    dropped=("embeddings.position_ids", "vocab_"),
    column=3,
)
ARCHITECTURES = {
    "BertModel": BERT, "BertForMaskedLM": BERT, "BertForSequenceClassification": BERT,
    "DistilBertModel": DISTILBERT, "DistilBertForMaskedLM": DISTILBERT, "DistilBertForSequenceClassification": DISTILBERT,
}  # fmt: skip

# C embedding_length, F feed_forward_length, V tokens, P context_length, S segment types, R labels
TENSORS = (
    # GGUF name,            shape,      BERT,                                       DistilBERT
    ("token_embd",          ("V", "C"), "embeddings.word_embeddings",               "embeddings.word_embeddings"),
    ("token_types",         ("S", "C"), "embeddings.token_type_embeddings",         ""),
    ("position_embd",       ("P", "C"), "embeddings.position_embeddings",           "embeddings.position_embeddings"),
    ("token_embd_norm",     ("C",),     "embeddings.LayerNorm",                     "embeddings.LayerNorm"),
    ("blk.{}.attn_q",       ("C", "C"), "encoder.layer.{}.attention.self.query",    "transformer.layer.{}.attention.q_lin"),
    ("blk.{}.attn_k",       ("C", "C"), "encoder.layer.{}.attention.self.key",      "transformer.layer.{}.attention.k_lin"),
    ("blk.{}.attn_v",       ("C", "C"), "encoder.layer.{}.attention.self.value",    "transformer.layer.{}.attention.v_lin"),
    ("blk.{}.attn_output",  ("C", "C"), "encoder.layer.{}.attention.output.dense",  "transformer.layer.{}.attention.out_lin"),
    ("blk.{}.attn_output_norm", ("C",), "encoder.layer.{}.attention.output.LayerNorm", "transformer.layer.{}.sa_layer_norm"),
    ("blk.{}.ffn_up",       ("F", "C"), "encoder.layer.{}.intermediate.dense",      "transformer.layer.{}.ffn.lin1"),
    ("blk.{}.ffn_down",     ("C", "F"), "encoder.layer.{}.output.dense",            "transformer.layer.{}.ffn.lin2"),
    ("blk.{}.layer_output_norm", ("C",), "encoder.layer.{}.output.LayerNorm",       "transformer.layer.{}.output_layer_norm"),
    ("cls",                 ("C", "C"), "",                                         "pre_classifier"),
    ("cls.output",          ("R", "C"), "classifier",                               "classifier"),
)  # fmt: skip
