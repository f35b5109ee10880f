"""Models that a DNC is compared with, by name; they are called as a DNC is.

To add one, write it in a file of its own and add a line to `BASELINES`.
"""

from .actor_critic import ActorCritic
from .base import AnswersLast, Baseline, BaselineConfig, BaselineState, WholePast
from .decoding import beam_search, greedy
from .deltanet import DeltaNet
from .dmn import DMN
from .dntm import DNTM
from .entnet import EntNet
from .memn2n import MemN2N
from .nalu import NAC, NALU
from .ntm import NTM
from .pointer import PointerNetwork
from .recurrent import GRU, LSTM, RNN
from .seq2seq import Seq2Seq
from .stories import StoryModel
from .transformer import Transformer

BASELINES: dict[str, type[Baseline]] = {
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
    "ntm": NTM,
    "dntm": DNTM,
    "actor-critic": ActorCritic,
    "transformer": Transformer,
    "deltanet": DeltaNet,
    "seq2seq": Seq2Seq,
    "pointer": PointerNetwork,
    "entnet": EntNet,
    "memn2n": MemN2N,
    "dmn": DMN,
}
"""Each model by the name that it has on the command line."""

__all__ = [
    "BASELINES",
    "DMN",
    "DNTM",
    "GRU",
    "LSTM",
    "NAC",
    "NALU",
    "NTM",
    "RNN",
    "ActorCritic",
    "AnswersLast",
    "Baseline",
    "BaselineConfig",
    "BaselineState",
    "DeltaNet",
    "EntNet",
    "MemN2N",
    "PointerNetwork",
    "Seq2Seq",
    "StoryModel",
    "Transformer",
    "WholePast",
    "beam_search",
    "greedy",
]
