# SPDX-License-Identifier: Apache-2.0
"""What do 4 million random numbers from a key cost beside torch's and jax's?

Compiled, on CPU; and uncompiled, the (256, 256) normals of one layer's initial weights.
Run: python benchmarks/random.py
"""

import importlib.util
import sys
import sysconfig

if __name__ == "random":
    # Another script of this folder runs, so the folder comes first where modules are
    # sought, and something imports the standard library's random. Give it that one.
    _spec = importlib.util.spec_from_file_location(
        "random", f"{sysconfig.get_path('stdlib')}/random.py"
    )
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["random"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["random"])

SIZE = 4 * 2**20


def main() -> None:
    """Check the numbers against jax's, time all sides, write the record."""
    # Not above, where this file may be the standard library's module.
    import jax
    import numpy as np
    import torch
    from interleave import report, seconds_per_call

    import functorch_lab as fl

    key, theirs = fl.random.key(42), jax.random.PRNGKey(42)
    uniform = torch.compile(
        lambda k: fl.random.uniform(k, (SIZE,)), fullgraph=True, dynamic=False
    )
    normal = torch.compile(
        lambda k: fl.random.normal(k, (SIZE,)), fullgraph=True, dynamic=False
    )
    jax_uniform = jax.jit(lambda k: jax.random.uniform(k, (SIZE,)))
    jax_normal = jax.jit(lambda k: jax.random.normal(k, (SIZE,)))

    np.testing.assert_array_equal(uniform(key).numpy(), jax_uniform(theirs))
    drawn = normal(key)
    np.testing.assert_allclose(drawn.numpy(), jax_normal(theirs), rtol=0, atol=2e-6)
    # Torch draws other numbers: the same distribution is all that can be asked of it.
    for x in (drawn, torch.randn(SIZE)):
        assert abs(x.mean()) < 5 * SIZE**-0.5
        assert abs(x.var() - 1) < 5 * (2 / SIZE) ** 0.5

    rows = {
        "uniform, 4M, compiled": seconds_per_call(
            {
                "functorch_lab": lambda: uniform(key),
                "torch.rand": lambda: torch.rand(SIZE),
                "jax.jit": lambda: jax_uniform(theirs).block_until_ready(),
            },
            blocks=21,
            calls=3,
        ),
        "normal, 4M, compiled": seconds_per_call(
            {
                "functorch_lab": lambda: normal(key),
                "torch.randn": lambda: torch.randn(SIZE),
                "jax.jit": lambda: jax_normal(theirs).block_until_ready(),
            },
            blocks=21,
            calls=3,
        ),
        "normal, (256, 256), eager": seconds_per_call(
            {
                "functorch_lab": lambda: fl.random.normal(key, (256, 256)),
                "torch.randn": lambda: torch.randn(256, 256),
                "jax.random.normal": lambda: jax.random.normal(
                    theirs, (256, 256)
                ).block_until_ready(),
            },
            blocks=21,
            calls=5,
        ),
    }
    report("random", __doc__.splitlines()[0], rows, ours="functorch_lab")


if __name__ == "__main__":
    main()
