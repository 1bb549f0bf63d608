# SPDX-License-Identifier: Apache-2.0
"""What every test runs under: threads, devices, random seeds, clean compiler caches."""

import os
import signal
import sys
from collections.abc import Iterator

# Read at import by torch: the workers of pytest-xdist share the cores already.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# A script's shell has what it starts in the background ignore Ctrl-C, and so would the
# runs that tests stop with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A compile inside a property test takes seconds, and a busy machine more.
_patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, **_patient)
settings.register_profile("dev", **_patient)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def _devices() -> list[str]:
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    return ["cpu", *(name for name, is_here in present.items() if is_here)]


@pytest.fixture(params=_devices())
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device of this machine in turn."""
    return torch.device(request.param)


@pytest.fixture(autouse=True, scope="module")
def fresh_compiler() -> Iterator[None]:
    """Forget compiled code after each file, so that files don't share its limits."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
