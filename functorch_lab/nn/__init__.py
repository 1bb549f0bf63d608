# SPDX-License-Identifier: Apache-2.0
"""Models: functions that return a `Layer(init, apply)`.

`params = layer.init(key)`, then `y = layer.apply(params, x, *, key=None, train=False)`.
A `StatefulLayer`, such as `batch_norm`, takes and returns a state beside:
`params, state = init(key)`, then `y, state = apply(params, state, x, ...)`.
Names, defaults and initial distributions are torch.nn's. Parameters are made on the
key's device, in the default dtype. Activations are plain functions.
"""

from functorch_lab.nn import init
from functorch_lab.nn._activations import (
    elu,
    gelu,
    identity,
    leaky_relu,
    log_softmax,
    mish,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from functorch_lab.nn._batch_norm import batch_norm
from functorch_lab.nn._bridge import Bridged, from_module
from functorch_lab.nn._bridge_write import load_into, set_grads
from functorch_lab.nn._compose import compose
from functorch_lab.nn._conv import conv1d, conv2d, conv3d
from functorch_lab.nn._conv_transpose import (
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from functorch_lab.nn._dropout import dropout, dropout2d
from functorch_lab.nn._embedding import embedding
from functorch_lab.nn._flatten import flatten
from functorch_lab.nn._linear import linear
from functorch_lab.nn._lora import lora
from functorch_lab.nn._maxout import maxout
from functorch_lab.nn._models import cnn, mlp
from functorch_lab.nn._multi_head_attention import multi_head_attention
from functorch_lab.nn._norm import layer_norm, rms_norm
from functorch_lab.nn._norm_groups import group_norm, instance_norm
from functorch_lab.nn._parallel import parallel
from functorch_lab.nn._pool import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from functorch_lab.nn._pool_adaptive import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
)
from functorch_lab.nn._positions import learned_positions, sinusoidal_positions
from functorch_lab.nn._recurrent import gru, lstm, rnn
from functorch_lab.nn._recurrent_cells import gru_cell, lstm_cell, rnn_cell
from functorch_lab.nn._remat import remat
from functorch_lab.nn._reparametrized import merge
from functorch_lab.nn._repeat import repeat
from functorch_lab.nn._resnet import resnet, resnet18
from functorch_lab.nn._rotary import rotary
from functorch_lab.nn._sequential import residual, sequential
from functorch_lab.nn._stateful import stateful
from functorch_lab.nn._transformer import transformer
from functorch_lab.nn._transformer_block import transformer_block
from functorch_lab.nn._transformer_cache import KVCache
from functorch_lab.nn._transformer_generate import generate
from functorch_lab.nn._transformer_model import LanguageModel
from functorch_lab.nn._upsample import upsample
from functorch_lab.nn._vit import vit
from functorch_lab.nn._weight_norm import weight_norm

__all__ = [
    "Bridged",
    "KVCache",
    "LanguageModel",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "cnn",
    "compose",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "dropout",
    "dropout2d",
    "elu",
    "embedding",
    "flatten",
    "from_module",
    "gelu",
    "generate",
    "group_norm",
    "gru",
    "gru_cell",
    "identity",
    "init",
    "instance_norm",
    "layer_norm",
    "leaky_relu",
    "learned_positions",
    "linear",
    "load_into",
    "log_softmax",
    "lora",
    "lstm",
    "lstm_cell",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "maxout",
    "merge",
    "mish",
    "mlp",
    "multi_head_attention",
    "parallel",
    "relu",
    "remat",
    "repeat",
    "residual",
    "resnet",
    "resnet18",
    "rms_norm",
    "rnn",
    "rnn_cell",
    "rotary",
    "selu",
    "sequential",
    "set_grads",
    "sigmoid",
    "silu",
    "sinusoidal_positions",
    "softmax",
    "softplus",
    "stateful",
    "tanh",
    "transformer",
    "transformer_block",
    "upsample",
    "vit",
    "weight_norm",
]
