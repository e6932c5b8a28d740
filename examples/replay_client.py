"""Q-learning from a replay server, and nothing else of Shoal: two writers, prioritised batches, a checkpoint.

    shoal replay --listen 127.0.0.1:7401
    python examples/replay_client.py 127.0.0.1:7401

The environment is a corridor of 8 cells; the last one pays 1 and ends the episode. docs/replay.md explains every call.
Tables outlive their server: run again, this learns from the steps of the runs before, too, and says so.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shoal

CELLS, GAMMA, LEARNING_RATE = 8, 0.9, 0.2
TABLE = "corridor"


def walk(rng: np.random.Generator) -> dict[str, list[Any]]:
    """One episode of random steps: columns [T], and obs [T + 1], what was observed last included."""
    obs, action, reward, discount = [0], list[int](), list[float](), list[float]()
    while len(action) < 40 and obs[-1] < CELLS - 1:
        action.append(int(rng.integers(2)))
        obs.append(max(0, obs[-1] + (1 if action[-1] else -1)))
        arrived = obs[-1] == CELLS - 1
        reward.append(float(arrived))
        discount.append(0.0 if arrived else 1.0)  # 0: it ended here; cut off after 40 steps is no end
    return {"obs": obs, "action": action, "reward": reward, "discount": discount}


def write(client: shoal.ReplayClient, seed: int, episodes: int) -> None:
    """What an actor does; it could be on another machine."""
    rng = np.random.default_rng(seed)
    with client.writer(TABLE) as writer:
        for _ in range(episodes):
            writer.insert_episode(walk(rng))
        writer.end_episode()


def learn(client: shoal.ReplayClient, updates: int) -> NDArray[np.float64]:
    """Action values [cell, action] from batches; the errors become the priorities of what was drawn."""
    values = np.zeros((CELLS, 2))
    with client.batches(TABLE, seed=0) as batches:
        for _ in range(updates):
            batch = next(batches)
            now, then = batch["obs"]  # [2, n]: a row's own, and the one below it
            action, reward, discount = batch["action"][0], batch["reward"][0], batch["discount"][0]
            error = reward + GAMMA * discount * values[then].max(1) - values[now, action]
            np.add.at(values, (now, action), LEARNING_RATE / len(batch) * CELLS * batch.weights(0.4) * error)
            batches.set_priorities(batch.keys, np.abs(error) + 1e-3)
    return values


def main(address: str) -> NDArray[np.float64]:
    """Make the table, fill it, learn from it; returns the values."""
    with shoal.ReplayClient(address) as client:
        columns = {"obs": "int64", "action": "int64", "reward": "float32"}
        made = client.create_table(TABLE, columns, capacity=20_000, batch_size=64, sampler="prioritised", writers=2)
        if made.items:
            print(
                f"table {TABLE!r} holds {made.items:,} steps of an earlier run, which are learned from, too; to start"
            )
            print("empty, stop the server and remove the folder that its first line names")
        writers = [threading.Thread(target=write, args=(client, seed, 100)) for seed in (1, 2)]
        for writer in writers:
            writer.start()
        values = learn(client, updates=1500)  # while they write
        for writer in writers:
            writer.join()
        figures = client.info().tables[TABLE].figures
        print(f"{figures['inserted']:,.0f} steps inserted, {figures['sampled']:,.0f} drawn")
        print(f"a checkpoint of {client.checkpoint(TABLE).items:,} steps")
    print(f"value of going right, by cell: {values[:-1, 1].round(2)}")
    return values


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7401")
