"""The networks that drive the memory: LSTM, GRU, RNN, feed-forward, and the protocol for your own.

A controller maps [x_t; r_{t-1}] (B, X + R W) and its own state to an output (B, size), from which
the interface vector and the DNC's output are computed. `Controller` is all that it must implement.
A built-in one is a file with its module and its tape, which runs it without autograd.
"""

from .base import Controller, LayeredController, call_controller, check_controller, zero_state
from .gru import GRUController
from .layer_norm_lstm import LayerNormLSTMController
from .layer_tape import LayerBuffers, LayerGradients, LayerTape
from .lstm import LSTMController
from .plain import FeedForwardController, RNNController
from .projected import ProjectedLSTMController

CONTROLLERS: dict[str, type[LayeredController]] = {
    "lstm": LSTMController,
    "gru": GRUController,
    "rnn": RNNController,
    "feedforward": FeedForwardController,
    "layer_norm_lstm": LayerNormLSTMController,
}
"""The built-in controllers by the names that `DNC` takes."""

__all__ = [
    "CONTROLLERS",
    "Controller",
    "FeedForwardController",
    "GRUController",
    "LSTMController",
    "LayerBuffers",
    "LayerGradients",
    "LayerNormLSTMController",
    "LayerTape",
    "LayeredController",
    "ProjectedLSTMController",
    "RNNController",
    "call_controller",
    "check_controller",
    "zero_state",
]
