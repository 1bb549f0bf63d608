# SPDX-License-Identifier: Apache-2.0
"""Small models of the library transformers with random weights, and padded batches."""

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from bridge_models import filled, numbers

hf: Any = transformers
hf.logging.set_verbosity_error()

_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def gpt2(layers: int = 2, **options: Any) -> Any:
    config = hf.GPT2Config(
        vocab_size=13,
        n_positions=11,
        n_embd=12,
        n_layer=layers,
        n_head=3,
        n_inner=10,
        bos_token_id=1,
        eos_token_id=2,
        **{**_NO_DROPOUT, **options},
    )
    return hf.GPT2LMHeadModel(config)


def bert(layers: int = 2, **options: Any) -> Any:
    config = hf.BertConfig(
        vocab_size=17,
        hidden_size=14,
        num_hidden_layers=layers,
        intermediate_size=10,
        num_attention_heads=2,
        max_position_embeddings=13,
        num_labels=3,
        **{
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            **options,
        },
    )
    return hf.BertForSequenceClassification(config)


def llama(layers: int = 2, **options: Any) -> Any:
    config = hf.LlamaConfig(
        vocab_size=19,
        hidden_size=16,
        num_hidden_layers=layers,
        intermediate_size=10,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=13,
        **options,
    )
    return hf.LlamaForCausalLM(config)


def vit(layers: int = 2, **options: Any) -> Any:
    config = hf.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=15,
        num_hidden_layers=layers,
        intermediate_size=10,
        num_attention_heads=3,
        num_labels=3,
        **{
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            **options,
        },
    )
    return hf.ViTForImageClassification(config)


MODELS: dict[str, Any] = {"gpt2": gpt2, "bert": bert, "llama": llama, "vit": vit}
IDS = torch.tensor([[3, 5, 7, 11, 4], [6, 9, 10, 0, 0], [2, 8, 12, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


def model(name: str, **options: Any) -> Any:
    """One of `MODELS` in float64 without zeros and ones, for evaluation."""
    return filled(MODELS[name](**options)).eval()


def batch(name: str) -> dict[str, torch.Tensor]:
    """Three samples, the second and third padded, each with its labels."""
    if name == "vit":
        return {"pixel_values": numbers(3, 3, 8, 8), "labels": torch.tensor([1, 2, 0])}
    labels = (
        torch.tensor([1, 2, 0])
        if name == "bert"
        else IDS.masked_fill(~MASK.bool(), -100)
    )
    return {"input_ids": IDS, "attention_mask": MASK, "labels": labels}
