# SPDX-License-Identifier: Apache-2.0
"""Which devices are there, asked before data are moved to one."""

import torch


def present_device(device: torch.device | str, *, where: str) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    # torch says "no" with an AssertionError, a RuntimeError or a TypeError of its own.
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{where}: device: expected one that is present ({', '.join(_present())}), "
            f"got {device}. Choose one of them, or leave it out for the default."
        ) from error
    return found


def _present() -> list[str]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    count = torch.accelerator.device_count()
    return ["cpu", *(f"{accelerator.type}:{i}" for i in range(count))]
