"""A DNC in Lightning: learn to copy, with clipped gradients, checkpoints and resuming.

pip install -e ".[examples]"
python examples/lightning_module.py                         about 15 seconds on a CPU
python examples/lightning_module.py --resume --epochs 20    continues where the last call ended

A run that was stopped and resumed ends with exactly the parameters of one that never stopped.
"""

import argparse
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from dnc_fast import DNC
from dnc_fast.tasks import CopyTask


class Batches(torch.utils.data.Dataset):
    """The batches of one epoch, each drawn by its own number, so that none comes twice."""

    def __init__(self, task, first, count, batch_size):
        self.task, self.first, self.count, self.batch_size = task, first, count, batch_size

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        generator = torch.Generator().manual_seed(self.first + number)
        return self.task.batch(self.batch_size, generator)


class Copier(lightning.LightningModule):
    """A DNC that learns to copy sequences of bit vectors."""

    def __init__(self, max_length=8, hidden_size=64, learning_rate=3e-3, epoch_steps=100):
        super().__init__()
        self.save_hyperparameters()  # so that Copier.load_from_checkpoint(path) needs no arguments
        self.task = CopyTask(max_length=max_length, num_bits=6)
        self.dnc = DNC(
            self.task.input_size,
            hidden_size,
            num_cells=16,
            cell_size=16,
            num_read_heads=1,
            output_size=self.task.output_size,
        )

    def training_step(self, batch, batch_idx):
        logits, _ = self.dnc(batch.inputs)
        loss = self.task.loss(logits, batch)
        self.log("loss", loss, prog_bar=True, batch_size=len(batch.lengths))
        return loss

    def validation_step(self, batch, batch_idx):
        logits, _ = self.dnc(batch.inputs)
        right = (self.task.score(logits, batch).wrong == 0).float().mean()
        self.log("right", right, prog_bar=True, batch_size=len(batch.lengths))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)

    def train_dataloader(self):
        count = self.hparams.epoch_steps
        first = 1_000 + self.current_epoch * count
        return DataLoader(Batches(self.task, first, count, batch_size=16), batch_size=None)

    def val_dataloader(self):
        return DataLoader(Batches(self.task, 0, 1, batch_size=200), batch_size=None)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=10, help="in all, with those before a --resume")
parser.add_argument("--epoch-steps", type=int, default=100, help="training steps in an epoch")
parser.add_argument("--folder", type=Path, default="runs/lightning", help="for checkpoints")
parser.add_argument("--seed", type=int, default=0, help="of the initial parameters")
parser.add_argument(
    "--resume", action="store_true", help="continue from the folder's last checkpoint"
)
options = parser.parse_args()

torch.set_num_threads(1)  # the fastest for a model as small as this
torch.manual_seed(options.seed)
trainer = lightning.Trainer(
    max_epochs=options.epochs,
    gradient_clip_val=10.0,
    reload_dataloaders_every_n_epochs=1,  # new batches in each epoch
    callbacks=ModelCheckpoint(options.folder / "checkpoints", save_last=True),  # after each epoch
    logger=CSVLogger(options.folder, name=None),
    log_every_n_steps=10,
)
model = Copier(epoch_steps=options.epoch_steps)
trainer.fit(model, ckpt_path="last" if options.resume else None)
right = trainer.validate(model, verbose=False)[0]["right"]
print(f"{trainer.global_step} steps, {100 * right:.1f} % of sequences right")
