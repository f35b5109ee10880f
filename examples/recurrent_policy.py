"""Reinforcement learning with a DNC: signs at the start of a maze show the way at its end.

python examples/recurrent_policy.py                     about a minute on a CPU
python examples/recurrent_policy.py --memory off        the LSTM controller alone

An advantage actor-critic. The policy's state is carried from rollout to rollout, gradients go back
to the start of a rollout (truncated backpropagation through time), and `state.reset_rows` empties
the memory of each row whose episode has ended.
"""

import argparse

import torch

from dnc_fast import DNCCell


class TMaze:
    """Signs, a corridor, and as many T-junctions as there were signs: turn as the signs said.

    Used like one of gymnasium's vector environments, but with tensors (B, ...). As there, a row
    whose episode ended starts over in the next step, which ignores its action and rewards nothing.

    Observations (B, 4), one-hot: a sign "left", a sign "right", the corridor, a junction.
    Actions (B): 0 walks on, 1 turns left, 2 turns right.
    Rewards: 1 for a right turn, -1 for a wrong one (the walk goes on), -0.1 for hitting a wall.
    """

    def __init__(self, batch_size, corridor, junctions):
        self.batch_size, self.corridor, self.junctions = batch_size, corridor, junctions

    def reset(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.signs = torch.zeros(self.batch_size, self.junctions, dtype=torch.long)
        self.end, self.place, self.time = torch.zeros(3, self.batch_size, dtype=torch.long)
        self._start_over(torch.ones(self.batch_size, dtype=torch.bool))
        self.over = torch.zeros(self.batch_size, dtype=torch.bool)
        return self._observations(), {}

    def step(self, actions):
        junction = self.place - self.end  # negative on the way there
        turned = (junction >= 0) & (actions > 0) & ~self.over
        right = turned & (actions == 1 + self._sign(junction))
        walked = (junction < 0) & (actions == 0)
        rewards = 2.0 * right - 1.0 * turned - 0.1 * ~(turned | walked | self.over)
        self.place, self.time = self.place + (turned | walked).long(), self.time + 1
        terminated = (self.place == self.end + self.junctions) & ~self.over
        truncated = (self.time == 4 * (self.corridor + self.junctions)) & ~terminated & ~self.over
        self._start_over(self.over)
        self.over = terminated | truncated
        return self._observations(), rewards, terminated, truncated, {}

    def _start_over(self, rows):
        """Put some rows at the start of a new maze; `rows` is a bool tensor (B,)."""
        signs = torch.randint(0, 2, self.signs.shape, generator=self.generator)
        least, most = self.junctions + self.corridor // 2, self.junctions + self.corridor
        ends = torch.randint(least, most + 1, self.end.shape, generator=self.generator)
        self.end = torch.where(rows, ends, self.end)
        self.signs = torch.where(rows.unsqueeze(1), signs, self.signs)
        self.place, self.time = self.place * ~rows, self.time * ~rows

    def _sign(self, number):
        return self.signs.gather(1, number.clamp(0, self.junctions - 1).unsqueeze(1)).squeeze(1)

    def _observations(self):
        signs, beyond = self._sign(self.place), 2 + (self.place >= self.end)
        seen = torch.where(self.place < self.junctions, signs, beyond)
        return torch.nn.functional.one_hot(seen, 4).float()


class Walk:
    """A policy in an environment, and what is carried from step to step."""

    def __init__(self, policy, env, seed, memory):
        self.policy, self.env, self.memory = policy, env, memory
        self.observations, _ = env.reset(seed)
        self.state = policy.zero_state(env.batch_size)
        self.over = torch.zeros(env.batch_size, dtype=torch.bool)

    def rollout(self, steps):
        """Take steps; what happened at each, as tensors (T, B, ...)."""
        self.state = self.state.detach()  # keep the state, drop its graph
        happened = []
        for _ in range(steps):
            output, state = self.policy(self.observations, self.state, memory=self.memory)
            actions = torch.multinomial(output[:, :3].detach().softmax(-1), 1).squeeze(1)
            # Rows that were over have seen their last observation, and now begin an episode.
            self.state, counted = state.reset_rows(self.over), ~self.over
            self.observations, rewards, terminated, truncated, _ = self.env.step(actions)
            self.over = terminated | truncated
            happened.append((output, actions, rewards, terminated, self.over, counted))
        return map(torch.stack, zip(*happened, strict=True))


def train(walk, updates, discount=0.9, trace=0.8):
    optimizer = torch.optim.Adam(walk.policy.parameters(), lr=3e-3)
    all_rewards = []
    for update in range(1, updates + 1):
        outputs, actions, rewards, terminated, over, counted = walk.rollout(32)
        values, chances = outputs[..., 3], torch.distributions.Categorical(logits=outputs[..., :3])
        with torch.no_grad():  # generalised advantage estimation (Schulman et al. 2016)
            output, _ = walk.policy(walk.observations, walk.state, memory=walk.memory)
            following, advantage, advantages = output[:, 3], 0.0, torch.empty_like(values)
            for t in reversed(range(len(values))):
                surprise = rewards[t] + discount * following * ~terminated[t] - values[t]
                advantage = surprise + discount * trace * advantage * ~over[t]
                following, advantages[t] = values[t], advantage
            targets = values + advantages
        losses = 0.5 * (values - targets).square() - advantages * chances.log_prob(actions)
        loss = (losses - 0.05 * chances.entropy())[counted].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(walk.policy.parameters(), 1.0)
        optimizer.step()
        all_rewards.append(rewards)
        if update % 100 == 0 or update == updates:
            print(f"update {update}: {share_of(all_rewards)}", flush=True)
            all_rewards = []


def share_of(rewards):
    right, wrong = ((torch.stack(rewards) == value).sum() for value in (1, -1))
    return f"{100 * right / (right + wrong):.1f} % of turns right"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=1000, help="rollouts (%(default)s)")
    parser.add_argument("--junctions", type=int, default=4, help="turns in a maze (%(default)s)")
    parser.add_argument("--corridor", type=int, default=10, help="longest corridor (%(default)s)")
    parser.add_argument("--memory", choices=["on", "off"], default="on", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # the fastest for a model as small as this
    sizes = {"num_cells": 16, "cell_size": 16, "num_read_heads": 1, "output_size": 3 + 1}
    policy = DNCCell(4, 64, input_gain=4, **sizes)  # its inputs are one-hot, see the README
    given = options.seed, options.memory == "on"
    train(Walk(policy, TMaze(32, options.corridor, options.junctions), *given), options.updates)
    for corridor in (options.corridor, 2 * options.corridor, 4 * options.corridor):
        walk = Walk(policy, TMaze(100, corridor, options.junctions), *given)
        with torch.no_grad():
            _, _, rewards, *_ = walk.rollout(4 * (corridor + options.junctions))
        print(f"corridors of up to {corridor}: {share_of([rewards])}")


if __name__ == "__main__":
    main()
