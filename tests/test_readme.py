# SPDX-License-Identifier: Apache-2.0
"""The README's examples run as they stand, and its commands are the promised ones."""

import pytest
import torch

from markdown_code import ROOT, Block, blocks, execute, new_session

README = ROOT / "README.md"
SETUP = "python3 -m venv .venv && .venv/bin/pip install -c tests/constraints.txt "
EXAMPLES = blocks(README, "python")


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: f"line{block.line}")
def test_example_runs_on_its_own(block: Block) -> None:
    execute(README, block, new_session(README))


def test_first_example_trains() -> None:
    namespace = new_session(README)
    execute(README, EXAMPLES[0], namespace)
    step, params, opt_state, loss, x, y = (
        namespace[name] for name in ("step", "params", "opt_state", "loss", "x", "y")
    )
    first = loss.item()
    for _ in range(20):
        params, opt_state, loss = step(params, opt_state, x, y)
    assert loss.item() < 0.8 * first


def test_plain_example_computes_the_gradient_step_by_hand() -> None:
    namespace = new_session(README)
    execute(README, EXAMPLES[1], namespace)
    # x = 1, 2, 3, y = 3, 5, 7, w = b = 0: the value is the mean of 9, 25, 49, the
    # gradients are -2 mean(x y) and -2 mean(y), the step is 0.05.
    assert namespace["value"].item() == pytest.approx(83 / 3)
    assert namespace["params"]["w"].item() == pytest.approx(0.1 * 34 / 3)
    assert namespace["params"]["b"].item() == pytest.approx(0.1 * 5)


def test_per_sample_example_is_that_of_a_loop() -> None:
    namespace = new_session(README)
    printed = execute(README, EXAMPLES[2], namespace)
    assert printed == "factored, Gram\n"
    module, x, y = (namespace[name] for name in ("module", "x", "y"))
    squares = []
    for image, label in zip(x, y, strict=True):
        loss = torch.nn.functional.cross_entropy(module(image), label)
        grads = torch.autograd.grad(loss, list(module.parameters()))
        squares.append(sum(grad.square().sum() for grad in grads))
    norms = torch.stack(squares).sqrt()
    torch.testing.assert_close(namespace["norms"], norms)
    assert namespace["similar"].shape == (4, 4)


def test_there_are_three_examples() -> None:
    assert len(EXAMPLES) == 3


def test_commands_are_the_two_promised_ones() -> None:
    sections = README.read_text(encoding="utf-8").split("\n## ")
    heads = {section.splitlines()[0]: section for section in sections}
    expected = {
        "Train": SETUP + '".[lab]" && .venv/bin/functorch-lab train digits',
        "Test": SETUP + '-e ".[test]" && .venv/bin/pytest',
    }
    for head, command in expected.items():
        assert f"\n```bash\n{command}\n```\n" in heads[head]
    assert [block.text for block in blocks(README, "bash")] == [
        command + "\n" for command in expected.values()
    ]
