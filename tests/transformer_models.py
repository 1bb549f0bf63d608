# SPDX-License-Identifier: Apache-2.0
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
"""GPT-2, Llama and ViT of Hugging Face, tiny, beside ours of the same sizes.

Each comes with the function that makes a tree like our params of its named tensors.
"""

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from functorch_lab.nn import transformer, vit

TOKENS = torch.tensor([[2, 7, 5, 10, 3], [8, 2, 6, 9, 4]])


def loss_of(y: Tensor) -> Tensor:
    """A curved scalar to which every element contributes in another way."""
    weights = torch.linspace(0.3, 1.7, y.shape[-2:].numel(), dtype=y.dtype)
    return (y**2 * weights.reshape(y.shape[-2:])).sum()


def filled(module, seed=3):
    """In float64, with weights of a size at which every part matters."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for p in module.parameters():
        p.data = 0.7 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return module


def gpt2(length=5):
    config = GPT2Config(
        vocab_size=11,
        n_positions=length,
        n_embd=6,
        n_layer=2,
        n_head=3,
        n_inner=7,
        layer_norm_epsilon=0.02,
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
    )
    ours = transformer(11, 6, 2, 3, max_length=length, hidden=7, norm_eps=0.02)
    # Other seeds' texts are a single token, again and again.
    return ours, filled(GPT2LMHeadModel(config), seed=6)


def gpt2_tree(named):
    """Its Conv1D has weights (in, out)."""

    def affine(name, transposed=True):
        weight = named[f"transformer.{name}.weight"]
        return {
            "weight": weight.mT if transposed else weight,
            "bias": named[f"transformer.{name}.bias"],
        }

    layers = {name.split(".")[2] for name in named if ".h." in name}
    return {
        "tokens": {"weight": named["transformer.wte.weight"]},
        "positions": {"weight": named["transformer.wpe.weight"]},
        "norm": affine("ln_f", False),
        "blocks": tuple(
            {
                "attention": {
                    "norm": affine(f"h.{i}.ln_1", False),
                    "qkv": affine(f"h.{i}.attn.c_attn"),
                    "out": affine(f"h.{i}.attn.c_proj"),
                },
                "mlp": {
                    "norm": affine(f"h.{i}.ln_2", False),
                    "up": affine(f"h.{i}.mlp.c_fc"),
                    "down": affine(f"h.{i}.mlp.c_proj"),
                },
            }
            for i in range(len(layers))
        ),
    }


class Rotary(nn.Module):
    """Llama's angles, which it computes in float32 whatever the model's precision."""

    def __init__(self, dim, base):
        super().__init__()
        self.dim, self.base = dim, base

    def forward(self, x, position_ids):
        pairs = torch.arange(self.dim // 2, dtype=torch.float64)
        angles = position_ids[..., None] * self.base ** (-2 * pairs / self.dim)
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()


def llama(length=5):
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=7,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=length,
        rms_norm_eps=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": 50.0},
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
    )
    module = LlamaForCausalLM(config)
    module.model.rotary_emb = Rotary(4, 50.0)
    # Its norms are in float32 too.
    for layer in module.model.layers:
        layer.input_layernorm = nn.RMSNorm(12, 0.02)
        layer.post_attention_layernorm = nn.RMSNorm(12, 0.02)
    module.model.norm = nn.RMSNorm(12, 0.02)
    ours = transformer(
        11,
        12,
        2,
        3,
        max_length=length,
        num_kv_heads=1,
        hidden=7,
        norm="rms_norm",
        norm_eps=0.02,
        positions="rotary",
        rotary_base=50.0,
        gated=True,
        bias=False,
        tie_weights=False,
    )
    return ours, filled(module)


def llama_tree(named):
    def of(name):
        return {"weight": named[f"model.{name}.weight"]}

    def qkv(i):
        parts = [of(f"layers.{i}.self_attn.{x}_proj")["weight"] for x in "qkv"]
        return {"weight": torch.cat(parts)}

    return {
        "tokens": of("embed_tokens"),
        "norm": of("norm"),
        "head": {"weight": named["lm_head.weight"]},
        "blocks": tuple(
            {
                "attention": {
                    "norm": of(f"layers.{i}.input_layernorm"),
                    "qkv": qkv(i),
                    "out": of(f"layers.{i}.self_attn.o_proj"),
                },
                "mlp": {
                    "norm": of(f"layers.{i}.post_attention_layernorm"),
                    "up": of(f"layers.{i}.mlp.up_proj"),
                    "gate": of(f"layers.{i}.mlp.gate_proj"),
                    "down": of(f"layers.{i}.mlp.down_proj"),
                },
            }
            for i in range(2)
        ),
    }


def vit_pair(image=(6, 8), patch=(3, 2)):
    config = ViTConfig(
        hidden_size=6,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=7,
        image_size=image,
        patch_size=patch,
        num_channels=5,
        num_labels=2,
        layer_norm_eps=0.02,
        attn_implementation="sdpa",
    )
    sizes = {"hidden": 7, "in_channels": 5, "norm_eps": 0.02}
    ours = vit(image, patch, 2, 6, 2, 3, **sizes)
    return ours, filled(ViTForImageClassification(config))


def vit_tree(named):
    def of(name):
        return {kind: named[f"{name}.{kind}"] for kind in ("weight", "bias")}

    def qkv(layer):
        parts = [of(f"{layer}.attention.{x}_proj") for x in "qkv"]
        return {k: torch.cat([p[k] for p in parts]) for k in ("weight", "bias")}

    return {
        "patches": of("vit.embeddings.patch_embeddings.projection"),
        "class_token": named["vit.embeddings.cls_token"].flatten(),
        "positions": {"weight": named["vit.embeddings.position_embeddings"][0]},
        "norm": of("vit.layernorm"),
        "head": of("classifier"),
        "blocks": tuple(
            {
                "attention": {
                    "norm": of(f"{layer}.layernorm_before"),
                    "qkv": qkv(layer),
                    "out": of(f"{layer}.attention.o_proj"),
                },
                "mlp": {
                    "norm": of(f"{layer}.layernorm_after"),
                    "up": of(f"{layer}.mlp.fc1"),
                    "down": of(f"{layer}.mlp.fc2"),
                },
            }
            for layer in ("vit.layers.0", "vit.layers.1")
        ),
    }
