# SPDX-License-Identifier: Apache-2.0
"""Optimizers: `GradientTransformation(init, update)` from parts that combine.

`updates, state = update(grads, state, params)`; updates are added to the params. A
state is a tree of tensors. Every numeric hyperparameter is a number, a tensor of shape
() or a schedule, and lives in the state as a tensor of shape () in the params'
precision or better: changing it compiles nothing again.

Half-precision params have their states and updates in float32. Integer leaves are not
trained: they have no state, and a hole `()` stands for them in gradients and updates.
A hole for any other leaf leaves it, and its state, as it is.
"""

from functorch_lab.optim import schedules
from functorch_lab.optim._adagrad import AdagradState, adagrad, scale_by_rss
from functorch_lab.optim._adam import AdamState, adam, adamw, scale_by_adam
from functorch_lab.optim._apply import apply_updates
from functorch_lab.optim._chain import chain
from functorch_lab.optim._clip import clip_by_global_norm
from functorch_lab.optim._decay import add_decayed_weights
from functorch_lab.optim._elementwise import elementwise, is_elementwise
from functorch_lab.optim._ema import EmaParamsState, ema_params, get_ema_params
from functorch_lab.optim._freeze import freeze
from functorch_lab.optim._fused import fused
from functorch_lab.optim._hyperparams import (
    Hyperparameter,
    HyperparamsState,
    Schedule,
    get_hyperparams,
    set_hyperparams,
)
from functorch_lab.optim._rmsprop import RMSpropState, rmsprop, scale_by_rms
from functorch_lab.optim._scale import scale, scale_by_schedule
from functorch_lab.optim._sgd import SGDState, sgd, trace

__all__ = [
    "AdagradState",
    "AdamState",
    "EmaParamsState",
    "Hyperparameter",
    "HyperparamsState",
    "RMSpropState",
    "SGDState",
    "Schedule",
    "adagrad",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "elementwise",
    "ema_params",
    "freeze",
    "fused",
    "get_ema_params",
    "get_hyperparams",
    "is_elementwise",
    "rmsprop",
    "scale",
    "scale_by_adam",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_schedule",
    "schedules",
    "set_hyperparams",
    "sgd",
    "trace",
]
