"""What pulls at a module, against the gradient that autograd gives and its SVD in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from si_hub.errors import UsageError
from si_hub.training.surveying import survey


class Two(nn.Module):
    """A convolution and a linear layer behind it."""

    def __init__(self, channels: int = 3, width: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.linear = nn.Linear(width, 4)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(self.conv(x).mean((2, 3)))
        return found


def losses_of(model: nn.Module, inputs: list[Tensor]) -> Iterator[Callable[[], Tensor]]:
    for x in inputs:
        yield lambda x=x: model(x).square().mean()  # type: ignore[misc]


def whole_gradients(model: Two, inputs: list[Tensor]) -> dict[str, Tensor]:
    """The summed gradients by autograd, all at once and in float64."""
    wide = Two(model.conv.in_channels, model.conv.out_channels).double().requires_grad_(True)
    torch.stack([wide(x.double()).square().mean() for x in inputs]).sum().backward()  # type: ignore[no-untyped-call]
    assert wide.conv.weight.grad is not None
    assert wide.linear.weight.grad is not None
    return {"conv": wide.conv.weight.grad.flatten(1), "linear": wide.linear.weight.grad}


@pytest.mark.parametrize(("channels", "width"), [(3, 5), (40, 48)])
def test_it_finds_what_autograd_and_an_svd_do(channels: int, width: int) -> None:
    model = Two(channels, width)
    generator = torch.Generator().manual_seed(1)
    # Few samples: gradients of rank three, which a sketch holds exactly, however large the module is.
    inputs = [torch.randn(1, channels, 4, 4, generator=generator) for _ in range(3)]
    found = survey({"conv": model.conv, "linear": model.linear}, losses_of(model, inputs), directions=3)
    for path, wanted in whole_gradients(model, inputs).items():
        _, strengths, reads = torch.linalg.svd(wanted, full_matrices=False)
        pull = found[path]
        torch.testing.assert_close(pull.strengths.double(), strengths[:3], rtol=1e-4, atol=1e-6 * float(strengths[0]))
        assert pull.reads.shape == (3, wanted.shape[1])
        assert pull.numbers == sum(wanted.shape)
        clear = [k for k in range(3) if strengths[k] > 1e-3 * strengths[0]]
        assert clear
        for k in clear:
            assert abs(float(pull.reads[k].double() @ reads[k])) == pytest.approx(1.0, abs=1e-3)
            assert float(pull.reads[k][pull.reads[k].abs().argmax()]) > 0


def test_nothing_is_left_in_the_model() -> None:
    model = Two()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = [torch.ones(1, 3, 4, 4)]
    survey({"conv": model.conv}, losses_of(model, inputs), directions=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None and not value.requires_grad for value in model.parameters())
    assert not model.conv.weight._post_accumulate_grad_hooks


def test_the_same_seed_sees_the_same() -> None:
    model, inputs = Two(40, 48), [torch.randn(4, 40, 4, 4, generator=torch.Generator().manual_seed(3))]
    one, other = (survey({"conv": model.conv}, losses_of(model, inputs), 4, seed=7)["conv"] for _ in range(2))
    assert torch.equal(one.reads, other.reads)
    assert torch.equal(one.strengths, other.strengths)


def test_a_module_that_does_nothing_is_left_out() -> None:
    model = Two()
    unused = nn.Linear(3, 3).requires_grad_(False)
    found = survey({"conv": model.conv, "unused": unused}, losses_of(model, [torch.ones(1, 3, 4, 4)]), 2)
    assert set(found) == {"conv"}


def test_lifted_gradients_find_the_same_directions() -> None:
    model, inputs = Two(), [torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5))]
    plain, lifted = (
        survey({"conv": model.conv}, losses_of(model, inputs), 2, lifted=lifted)["conv"] for lifted in (False, True)
    )
    torch.testing.assert_close(plain.reads, lifted.reads, rtol=1e-3, atol=1e-4)


def test_gradients_beyond_all_bounds_are_told() -> None:
    model = Two()
    with pytest.raises(UsageError, match="conv: the gradient of a module is not finite"):
        survey({"conv": model.conv}, losses_of(model, [torch.full((1, 3, 4, 4), float("inf"))]), 2)
