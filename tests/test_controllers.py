"""The built-in controllers, and custom ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from states import (
    assert_close,
    lively_dnc,
    lively_state,
    normal,
    oracle_dnc,
    usage_gap,
    weighed_sum,
)
from torch import Tensor, nn

from dnc_fast import DNC
from dnc_fast.controllers import CONTROLLERS, Controller, FeedForwardController, LSTMController
from dnc_fast.state import map_tensors, tensors

every_controller = pytest.mark.parametrize("controller", CONTROLLERS)


# The built-in ones


@every_controller
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_oracle(controller: str, num_layers: int, bias: bool) -> None:
    """Whole DNCs: a layer sees the input, the last read vectors, and the layer below."""
    model = lively_dnc(controller=controller, num_layers=num_layers, bias=bias, output_size=2)
    x, state = normal(3, 2, 3), lively_state(model, 2)
    outputs, final = model(x, state)
    assert usage_gap(final.memory.usage) > 1e-6
    assert_close((outputs, final), oracle_dnc(model, x, state, controller), "float64")


@every_controller
def test_keeps_the_protocol(controller: str) -> None:
    module = CONTROLLERS[controller](5, 4, num_layers=3)
    assert isinstance(module, Controller)
    assert module.output_size == 12
    outputs, state = module(torch.randn(2, 5), module.zero_state(2))
    assert outputs.shape == (2, 12)
    shapes = [part.shape for part in tensors(state)]
    assert shapes == [part.shape for part in tensors(module.zero_state(2))]
    counts = {"lstm": 6, "gru": 3, "rnn": 3, "feedforward": 0, "layer_norm_lstm": 6}
    assert len(shapes) == counts[controller]
    places = {part.data_ptr() for part in tensors(module.zero_state(2))}
    assert len(places) == len(shapes)  # no storage is shared


@every_controller
def test_bias_false_means_no_bias_anywhere(controller: str) -> None:
    names = dict(DNC(3, 4, 2, bias=False, controller=controller).named_parameters())
    assert names
    assert not any("bias" in name for name in names)
    with_bias = dict(DNC(3, 4, 2, controller=controller).named_parameters())
    assert {name for name in with_bias if "bias" not in name} == set(names)
    for part in ("cell.interface.bias", "cell.output.bias"):
        assert part in with_bias


@every_controller
def test_parameters_start_as_in_torchs_own_layers(controller: str) -> None:
    """Uniform within 1 / sqrt(H) in recurrent layers, 1 / sqrt(inputs) in linear ones."""
    cell = DNC(3, 25, 2, controller=controller, num_cells=4, cell_size=3).cell
    for layer in (*cell.controller.layers, cell.interface, cell.output):
        bound = getattr(layer, "in_features", 25) ** -0.5
        for name, parameter in layer.named_parameters():
            if name.startswith("gain"):
                assert (parameter == 1).all()
                continue
            assert 0.8 * bound < parameter.abs().max() <= bound


@every_controller
def test_reset_parameters_draws_again(controller: str) -> None:
    torch.manual_seed(1)
    first = DNC(3, 4, 2, controller=controller)
    other = DNC(3, 4, 2, controller=controller)
    drawn = [name for name, _ in first.named_parameters() if "gain" not in name]
    assert drawn
    for name in drawn:
        assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    torch.manual_seed(1)
    other.reset_parameters()
    assert all(map(torch.equal, first.parameters(), other.parameters()))


def test_normalised_zeros_do_not_blow_up_gradients() -> None:
    """As a controller from the end meets them, where batches are padded."""
    model = DNC(3, 8, controller="layer_norm_lstm", num_cells=4, cell_size=3)
    x = torch.zeros(200, 2, 3)
    x[-1] = 1
    model(x)[0][-1].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.norm() < 1e3, name


# Clipping, dropout


@every_controller
def test_input_gain_scales_the_initial_weights_of_the_inputs_alone(controller: str) -> None:
    torch.manual_seed(0)
    plain = DNC(3, 4, num_layers=2, controller=controller)
    torch.manual_seed(0)
    gained = DNC(3, 4, num_layers=2, controller=controller, input_gain=8)
    expected = dict(plain.named_parameters())
    for layer in range(2):
        name = f"cell.controller.layers.{layer}.weight"
        name += "" if controller == "feedforward" else "_ih"
        expected[name].data[:, :3] *= 8
    assert_close(dict(gained.named_parameters()), expected, "equal")
    torch.manual_seed(1)
    gained.reset_parameters()
    torch.manual_seed(1)
    again = DNC(3, 4, num_layers=2, controller=controller, input_gain=8)
    assert_close(list(gained.parameters()), list(again.parameters()), "equal")


def final_gradients(
    controller: str, weight: float, clip: float | None, of_state: bool
) -> tuple[Tensor, list[Tensor]]:
    """One layer's outputs, and its gradients under a cotangent of -weight and +weight by turns."""
    torch.manual_seed(0)
    module = CONTROLLERS[controller](5, 4, activation_clip=clip, dtype=torch.float64)
    state = map_tensors(lambda zero: normal(*zero.shape), module.zero_state(2))
    outputs, state = module(normal(2, 5), state)
    target = list(tensors(state))[-1] if of_state else outputs
    signs = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    (weight * signs * target).sum().backward()
    return outputs, [parameter.grad for parameter in module.parameters()]


@pytest.mark.parametrize(
    ("controller", "of_state"),
    [*((name, False) for name in CONTROLLERS), ("lstm", True), ("layer_norm_lstm", True)],
    ids=lambda value: {True: "cell", False: "hidden"}.get(value, value),
)
def test_activation_clip_limits_the_gradient_of_activations(
    controller: str, of_state: bool
) -> None:
    """Clipped at 0.5, a gradient of 100 does what one of 0.5 does; one of 0.1 is left alone."""
    outputs, clipped = final_gradients(controller, 100.0, 0.5, of_state)
    unclipped_outputs, at_limit = final_gradients(controller, 0.5, None, of_state)
    assert_close(outputs, unclipped_outputs, "equal")
    assert_close(clipped, at_limit, "float64")
    assert any(gradient.any() for gradient in clipped)
    _, below_limit = final_gradients(controller, 0.1, 0.5, of_state)
    assert_close(below_limit, final_gradients(controller, 0.1, None, of_state)[1], "float64")


@every_controller
def test_activation_clip_is_off_by_default(controller: str) -> None:
    _, gradients = final_gradients(controller, 1e6, None, of_state=False)
    _, tenth = final_gradients(controller, 1e5, None, of_state=False)
    assert_close(gradients, [10 * gradient for gradient in tenth], "float64")
    assert DNC(3, 4, controller=controller).cell.controller.activation_clip is None


def test_activation_clip_acts_in_every_step_of_a_dnc() -> None:
    options = {"controller": "feedforward", "bias": True}
    x = normal(4, 2, 3)
    norms = {}
    for clip in (None, 1e6, 1e-3):
        model = lively_dnc(activation_clip=clip, **options)
        state = lively_state(model, 2)
        weighed_sum(model(x, state)[0]).backward()
        norms[clip] = model.cell.controller.layers[0].bias.grad.abs().max()
    assert norms[None] == norms[1e6]
    # tanh' is at most 1, so no more than the limit from each of the 4 steps of 2 sequences.
    assert 0 < norms[1e-3] <= 4 * 2 * 1e-3 < norms[None]


@every_controller
def test_dropout_acts_between_layers_in_training_only(controller: str) -> None:
    """Dropout with probability 1 is the same as zero weights for the layer below."""
    whole = lively_dnc(controller=controller, num_layers=2, dropout=1.0)
    x, state = normal(3, 2, 3), lively_state(whole, 2)
    plain = lively_dnc(controller=controller, num_layers=2)
    assert_close(whole.eval()(x, state), plain(x, state), "equal")
    second = plain.cell.controller.layers[1]
    weight = second.weight if controller == "feedforward" else second.weight_ih
    with torch.no_grad():
        weight[:, -4:] = 0
    assert_close(whole.train()(x, state), plain(x, state), "float64")


def test_dropout_draws_new_masks_in_training() -> None:
    model = lively_dnc(num_layers=2, dropout=0.5)
    x = normal(3, 2, 3)
    assert not torch.equal(model(x)[0], model(x)[0])
    model.eval()
    assert_close(model(x), model(x), "equal")


# Your own


def test_function_is_given_the_input_size_once_per_direction() -> None:
    sizes = []

    def build(input_size: int) -> nn.Module:
        sizes.append(input_size)
        return LSTMController(input_size, 4, dtype=torch.float64)

    model = lively_dnc(controller=build, bidirectional=True)
    # X + R W
    assert sizes == [3 + 2 * 3] * 2
    assert model.cell.controller is not model.reverse_cell.controller
    named = lively_dnc(bidirectional=True)
    x = normal(3, 2, 3)
    assert_close(model(x), named(x), "equal")


def test_module_is_taken_as_it_is() -> None:
    module = FeedForwardController(3 + 2 * 3, 4, dtype=torch.float64)
    model = lively_dnc(controller=module)
    assert model.cell.controller is module
    assert_close(model(x := normal(3, 2, 3)), lively_dnc(controller="feedforward")(x), "equal")


def broken(**parts: Any) -> nn.Module:
    module = nn.Linear(9, 4)
    for name, part in parts.items():
        setattr(module, name, part)
    return module


@pytest.mark.parametrize(
    ("controller", "message"),
    [
        (broken(), "Linear lacks output_size and zero_state"),
        (broken(output_size=4), "Linear lacks zero_state"),
        (broken(zero_state=lambda batch_size: ()), "Linear lacks output_size"),
        (lambda input_size: broken(output_size=4), "Linear lacks zero_state"),
        (lambda input_size: "lstm", r"must be an nn\.Module, got str"),
    ],
)
def test_message_names_the_missing_part_of_the_protocol(controller: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"controller .*{message}"):
        DNC(3, 4, controller=controller)


class Returning(nn.Module):
    """A controller that returns what it is told to."""

    output_size = 4

    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.returned = returned

    def zero_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, 4)

    def forward(self, inputs: Tensor, state: Tensor) -> Any:
        return self.returned


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (torch.zeros(2, 4), "a Tensor"),  # which could be unpacked into two rows
        ((torch.zeros(2, 4),), "a tuple of 1"),
        ((None, torch.zeros(2, 4)), "a tuple of 2"),
    ],
)
def test_message_says_what_a_step_must_return(
    returned: Any, got: str, memory: bool, backend: str
) -> None:
    model = DNC(3, 4, controller=Returning(returned), backend=backend)
    with pytest.raises(TypeError, match=rf"Returning must return \(outputs, state\), got {got}"):
        model(torch.randn(2, 2, 3), memory=memory)
