"""A controller of your own: any module with output_size, zero_state and forward.

python examples/own_controller.py         a second on a CPU
"""

import torch
from torch import nn

from dnc_fast import DNC


class Averager(nn.Module):
    """A layer that also sees a running mean of its inputs."""

    def __init__(self, input_size: int, output_size: int = 32) -> None:
        super().__init__()
        self.output_size = output_size
        self.input_size = input_size
        self.layer = nn.Linear(2 * input_size, output_size)

    def zero_state(self, batch_size, device=None, dtype=None):
        return {"mean": torch.zeros(batch_size, self.input_size, device=device, dtype=dtype)}

    def forward(self, inputs, state):
        mean = 0.9 * state["mean"] + 0.1 * inputs
        return torch.relu(self.layer(torch.cat([inputs, mean], dim=-1))), {"mean": mean}


dnc = DNC(5, 32, num_cells=16, cell_size=8, controller=Averager)
output, state = dnc(torch.randn(10, 3, 5))
output.square().mean().backward()
print("output (T, B, Y):", tuple(output.shape))
print("mean, a part of the final state:", tuple(state.controller["mean"].shape))
print(f"norm of the gradient of the layer: {dnc.cell.controller.layer.weight.grad.norm():.4f}")
