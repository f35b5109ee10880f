"""Options of model and training that suit a task: small defaults, and published ones by name.

Tasks know no model, so what a task is trained with by default is collected here.
"""

from .campaigns import CAMPAIGNS, Campaign
from .defaults import model_config, model_options, training_options
from .paper import PUBLISHED, Preset

__all__ = [
    "CAMPAIGNS",
    "PUBLISHED",
    "Campaign",
    "Preset",
    "model_config",
    "model_options",
    "training_options",
]
