# SPDX-License-Identifier: Apache-2.0
"""Statistics of per-sample gradients over the batches of a data set or a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._accumulator import Accumulator
from functorch_lab.per_sample._call import Method, Options, Part, Selected, Wrt, run
from functorch_lab.per_sample._moments import Moments, merged, moments, no_moments
from functorch_lab.per_sample._noise import Statistics, Sums, statistics_of, sums_of
from functorch_lab.transforms._flat import kind_of


def statistics(  # noqa: PLR0913  (what it computes, and the common options)
    loss_fn: Callable[..., Any],
    *,
    gsnr: bool = False,
    gsnr_floor: float = 1e-6,
    decay: float | None = None,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Accumulator:
    """Norms, noise scale, GSNR, diversity and alignment of per-sample gradients.

    One backward pass for each update. A sample is what one call of `loss_fn` gets: for
    a language model a sequence, not a token, so that the noise scale counts sequences.
    The gradients are those of the loss as it is, before any clipping or optimizer.

    - `state = init(params)`: only shapes, dtypes and the device of params matter.
    - `state = update(state, params, *batch, keys=None, mask=None)`; with `has_aux` it
      returns `(state, aux)`. `keys` are one per sample, for a `loss_fn` with `key=`;
      samples where the mask is False change nothing, and are not counted.
    - `state = merge(a, b)`, which is associative and commutative.
    - `result = compute(state)`, a `Statistics`.

    Without `decay`, all updates are taken at the same params, and the result is that of
    all samples in one batch, whatever batches they came in (each to rounding, the
    quantiles exactly). The state has twice the size of params (mean gradient and mean
    direction), with `gsnr` three times.

    With `decay`, each update may have params of its own, as the steps of a training do.
    What is a ratio is then the ratio of two sums over the updates, each from one batch:
    unbiased variances are pooled, signal and noise averaged apart with the weight
    `samples - 1`, the others with `samples`; at each update the sums so far are
    multiplied by `decay`. `merge` adds the sums of two devices; that is not what one
    device gets from larger batches, since each batch is a set of its own. A batch of
    one sample tells no variance. The state is small, with `gsnr` twice the size of
    params.

    Sums that are one number are float64 (float32 on MPS, which has no float64, and
    where counts are exact up to 2**24), sums for each parameter float32, or float64 for
    such params. In float32, noise below about a millionth of the signal is lost in
    rounding, unless `gsnr` is asked for, which sums squared deviations. Samples with a
    gradient that is not finite make what they enter NaN: mask them.

    Args:
        loss_fn: `loss_fn(params, *sample)`, the loss of one sample, a scalar.
        gsnr: whether the gradient signal-to-noise ratio of each parameter is computed.
        gsnr_floor: no variance is taken as smaller than this share of the mean
            variance of its leaf, since a ratio of a variance near zero would rule every
            mean of ratios.
        decay: None for updates at the same params; otherwise a number in (0, 1], how
            much the sums so far count after one more update.
        quantiles: shares, in [0, 1], of the samples below which the quantiles of the
            norms lie. They have a relative error of at most 1.1 %; norms below 2**-64
            count as 0, those above 2**64 as infinite.
        wrt: which leaves are differentiated: a path pattern as `tree.select` takes it,
            or `wrt(path, leaf)`; by default all of floating point.
        method: "auto" and "factored" form no gradient where they need not; "vmap" forms
            all at once, "loop" one after another.
        chunk_size: how many samples are computed at once; all, if None.
        has_aux: `loss_fn` returns `(loss, aux)`.
        keep_batch_axis: each sample keeps a leading axis of size 1.

    Returns:
        The accumulator.

    Raises:
        TypeError: `loss_fn` is no function, a state comes from elsewhere, or as in
            `per_sample.norms`.
        ValueError: `decay`, `gsnr_floor` or a share is out of its range; states of
            different params; or as in `per_sample.norms`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> def loss_fn(params, x):  # its gradient is -x
        ...     return -(params["w"] * x).sum()
        >>> tool = fl.per_sample.statistics(loss_fn, gsnr=True)
        >>> params = {"w": torch.zeros(2)}
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0], [2.0, 6.0]])
        >>> state = tool.update(tool.init(params), params, x[:1])
        >>> result = tool.compute(tool.update(state, params, x[1:]))
        >>> result.mean_norm  # of the mean (2, 3)
        tensor(3.6056, dtype=torch.float64)
        >>> result.noise.noise  # variances 2/3 and 12/3
        tensor(4.6667, dtype=torch.float64)
        >>> result.noise.signal  # 13 - 4.6667 / 4
        tensor(11.8333, dtype=torch.float64)
        >>> result.noise.scale
        tensor(0.3944, dtype=torch.float64)
        >>> result.diversity  # (5 + 13 + 8 + 40) / (8**2 + 12**2)
        tensor(0.3173, dtype=torch.float64)
        >>> result.gsnr["w"]  # (4 - 0.6667 / 4) / 0.6667, (9 - 4 / 4) / 4
        tensor([5.7500, 2.0000])

    Sources: noise scale: McCandlish et al., An Empirical Model of Large-Batch Training
    (2018), equations 2.9, A.2 and A.3, arXiv 1812.06162. GSNR: Liu et al.,
    Understanding Why Neural Networks Generalize Well Through GSNR of Parameters (2020),
    section 2, arXiv 2001.07384, here without the bias of the squared mean. Diversity:
    Yin et al., Gradient Diversity: a Key Ingredient for Scalable Distributed Learning
    (2018), definition 1, arXiv 1706.05699; `samples * diversity` is its bound on the
    batch size.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("statistics", loss_fn, options)
    shares = _shares(quantiles)
    _check_numbers(decay, gsnr_floor)

    def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
        return (), moments(part, selected, each=gsnr)

    def init(params: Any) -> Moments | Sums:
        empty = no_moments(Selected("statistics", params, wrt), each=gsnr)
        return empty if decay is None else sums_of(empty)

    def update(
        state: Any,
        params: Any,
        *batch: Any,
        keys: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Any:
        check_state("update", state)
        call = (params, batch, keys, mask)
        _, more, aux = run("statistics", loss_fn, options, *call, contract, merged)
        if decay is not None:
            state = tree.map(lambda leaf: leaf * decay, state)
            more = sums_of(more)
        remedy = "Begin with state = init(params)."
        state = joined("update", ("state", "params"), state, more, remedy)
        return (state, aux) if has_aux else state

    def merge(a: Any, b: Any) -> Any:
        check_state("merge", a)
        check_state("merge", b)
        remedy = "Merge states of the same params and options."
        return joined("merge", ("a", "b"), a, b, remedy)

    def joined(
        function: str, names: tuple[str, str], a: Any, b: Any, remedy: str
    ) -> Any:
        what = f"per_sample.statistics.{function}"
        tree.check_same_structure(a, b, what=what, names=names, remedy=remedy)
        return merged(a, b) if decay is None else tree.map(Tensor.add, a, b)

    def compute(state: Any) -> Statistics:
        check_state("compute", state)
        found = sums_of(state) if decay is None else state
        return statistics_of(found, shares, gsnr_floor)

    def check_state(function: str, state: object) -> None:
        if not isinstance(state, Moments if decay is None else Sums):
            raise TypeError(
                f"per_sample.statistics.{function}: state: expected what init or "
                f"update of the same decay returned, got {kind_of(state)}. Begin "
                "with state = init(params)."
            )

    return Accumulator(init, update, merge, compute)


def _shares(quantiles: Sequence[float]) -> tuple[float, ...]:
    if not isinstance(quantiles, list | tuple) or not all(
        isinstance(share, int | float) for share in quantiles
    ):
        raise TypeError(
            "per_sample.statistics: quantiles: expected a sequence of numbers, got "
            f"{kind_of(quantiles)}. Write quantiles=(0.5,) for the median."
        )
    if not all(0 <= share <= 1 for share in quantiles):
        raise ValueError(
            "per_sample.statistics: quantiles: expected shares in [0, 1], got "
            f"{quantiles}. Write 0.5 for the median."
        )
    return tuple([float(share) for share in quantiles])


def _check_numbers(decay: object, gsnr_floor: object) -> None:
    if decay is not None and not (isinstance(decay, int | float) and 0 < decay <= 1):
        raise ValueError(
            "per_sample.statistics: decay: expected a number in (0, 1] or None, got "
            f"{decay!r}. Leave it out for updates at the same params."
        )
    if not (isinstance(gsnr_floor, int | float) and gsnr_floor >= 0):
        raise ValueError(
            "per_sample.statistics: gsnr_floor: expected a number of at least 0, got "
            f"{gsnr_floor!r}. Leave it out for a millionth of the mean variance."
        )
