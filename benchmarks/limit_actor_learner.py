"""How fast can the path be at all? PPO on CartPole with nothing but the path: no config, metrics or checkpoints.

Actor processes step a native vector environment and send columns to the learner over gRPC; the learner computes GAE,
makes its minibatch updates and answers with the newest weights, at most `--lag` versions behind. A measure to hold
Shoal against in the same minute on the same machine, not a design. Prints one JSON line.

    python -m benchmarks.limit_actor_learner --envs 128 --unroll 64 --epochs 4 --minibatch 2048 --lag 1 --seconds 10
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import grpc
import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray[Any, Any]
METHOD = "/limit/exchange"
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
COLUMNS: Mapping[str, type] = {
    "action": np.int64,
    "reward": np.float32,
    "discount": np.float32,
    "valid": np.float32,
    "log_prob": np.float32,
}
"""[T, B] each; obs, [T + 1, B, 4] float32, goes before them."""
OBS, ACTIONS = 4, 2
GAMMA, LAMBDA, CLIP, VALUE, ENTROPY, LEARNING_RATE = 0.99, 0.95, 0.2, 0.5, 0.01, 3e-4


def make_network() -> nn.Sequential:
    """One trunk for two logits and a value, the same first weights in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(OBS, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, ACTIONS + 1))


def same(message: bytes) -> bytes:
    """No serialisation: the messages are bytes."""
    return message


def act(index: int, address: str, envs: int, unroll: int) -> None:
    """An actor: unroll, send, take the weights that come back, for ever."""
    torch.set_num_threads(1)
    channel = grpc.insecure_channel(address, options=OPTIONS)
    grpc.channel_ready_future(channel).result(30)
    exchange: Any = channel.unary_unary(METHOD, same, same)
    network, me, rows = make_network(), index.to_bytes(4, "little"), np.arange(envs)
    vector = gymnasium.make_vec("CartPole-v1", num_envs=envs, vectorization_mode="vector_entry_point")
    obs, _ = vector.reset(seed=index)
    rng = np.random.default_rng(index)
    seen = np.zeros((unroll + 1, envs, OBS), np.float32)
    columns: dict[str, Array] = {name: np.zeros((unroll, envs), dtype) for name, dtype in COLUMNS.items()}
    ended = np.zeros(envs, bool)
    weights: bytes = exchange(me)
    while True:
        load(network, weights)
        with torch.inference_mode():
            for t in range(unroll):
                seen[t] = obs
                log_probs = torch.log_softmax(network(torch.from_numpy(seen[t]))[:, :ACTIONS], -1).numpy()
                action = (log_probs + rng.gumbel(size=log_probs.shape)).argmax(1)
                obs, reward, terminated, truncated, _ = vector.step(action)
                columns["action"][t], columns["reward"][t] = action, reward
                columns["discount"][t], columns["valid"][t] = ~terminated, ~ended  # the row below an end is the reset
                columns["log_prob"][t] = log_probs[rows, action]
                ended = terminated | truncated
        seen[unroll] = obs
        weights = exchange(b"".join([me, seen.tobytes(), *(column.tobytes() for column in columns.values())]))


def load(network: nn.Module, weights: bytes) -> None:
    """Copy flat float32 weights into the parameters."""
    flat, at = torch.from_numpy(np.frombuffer(weights, np.float32).copy()), 0
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(flat[at : at + parameter.numel()].view_as(parameter))
            at += parameter.numel()


def decode(message: bytes, unroll: int, envs: int) -> dict[str, Array]:
    """An actor's message as views."""
    at = 4 + (unroll + 1) * envs * OBS * 4
    views: dict[str, Array] = {"obs": np.frombuffer(message[4:at], np.float32).reshape(unroll + 1, envs, OBS)}
    for name, dtype in COLUMNS.items():
        end = at + unroll * envs * np.dtype(dtype).itemsize
        views[name] = np.frombuffer(message[at:end], dtype).reshape(unroll, envs)
        at = end
    return views


def advantages_of(batch: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """GAE, cut at reset rows."""
    reward, discount, valid = batch["reward"], batch["discount"], batch["valid"]
    advantages, running = torch.zeros_like(reward), torch.zeros(reward.shape[1])
    delta = reward + GAMMA * discount * values[1:] - values[:-1]
    for t in range(len(reward) - 1, -1, -1):
        running = valid[t] * (delta[t] + GAMMA * LAMBDA * discount[t] * running)
        advantages[t] = running
    return advantages


def update(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Mapping[str, Tensor], o: Any) -> None:
    """`o.epochs` passes over the batch in minibatches."""
    with torch.no_grad():
        values = network(batch["obs"])[..., ACTIONS]
        advantage = advantages_of(batch, values)
    valid = batch["valid"].flatten()
    target = (advantage + values[:-1]).flatten()
    count = valid.sum()
    advantage = advantage.flatten()
    centred = advantage - (advantage * valid).sum() / count
    advantage = centred / ((centred.square() * valid).sum() / count).sqrt().clamp(min=1e-8)
    obs, action, old = batch["obs"][:-1].flatten(0, 1), batch["action"].view(-1, 1), batch["log_prob"].flatten()
    for _ in range(o.epochs):
        for ix in torch.randperm(len(valid)).split(o.minibatch):
            output = network(obs[ix])
            log_probs = torch.log_softmax(output[:, :ACTIONS], -1)
            ratio = (log_probs.gather(1, action[ix])[:, 0] - old[ix]).exp()
            gain = torch.min(ratio * advantage[ix], ratio.clamp(1 - CLIP, 1 + CLIP) * advantage[ix])
            entropy = -(log_probs.exp() * log_probs).sum(-1)
            error = (output[:, ACTIONS] - target[ix]).square()
            loss = (valid[ix] * (VALUE * error - gain - ENTROPY * entropy)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class Exchange:
    """The learner's one call: takes an actor's unroll, answers with weights that are new enough."""

    def __init__(self, actors: int, lag: int) -> None:
        self.unrolls: list[queue.Queue[bytes]] = [queue.Queue() for _ in range(actors)]
        self._sent, self._lag = [0] * actors, lag
        self._version, self._weights, self._changed = -1, b"", threading.Condition()

    def publish(self, network: nn.Module) -> None:
        """The next version."""
        weights = torch.cat([p.detach().flatten() for p in network.parameters()]).numpy().tobytes()
        with self._changed:
            self._weights, self._version = weights, self._version + 1
            self._changed.notify_all()

    def __call__(self, request: bytes, _context: object) -> bytes:
        """Runs on a thread of the server, one a waiting actor."""
        index = int.from_bytes(request[:4], "little")
        if len(request) > 4:
            self.unrolls[index].put(request)
            self._sent[index] += 1
        with self._changed:
            self._changed.wait_for(lambda: self._version >= self._sent[index] - self._lag)
            return self._weights


def serve(exchange: Exchange, actors: int) -> tuple[grpc.Server, str]:
    """Start the server: it, which stops when nothing refers to it, and its address."""
    server = grpc.server(futures.ThreadPoolExecutor(actors + 4), options=OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(exchange, same, same)
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    address = f"unix://{tempfile.mkdtemp(prefix='shoal-limit-')}/s"
    server.add_insecure_port(address)
    server.start()
    return server, address


def main() -> None:
    """Measure, print, leave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("actors", 1), ("envs", 128), ("unroll", 64), ("epochs", 4), ("minibatch", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("lag", 1), ("seconds", 10), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    network, exchange = make_network(), Exchange(o.actors, o.lag)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    exchange.publish(network)
    _server, address = serve(exchange, o.actors)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=act, args=(i, address, o.envs, o.unroll), daemon=True) for i in range(o.actors)]
    for process in processes:
        process.start()
    env_steps, start_s = 0, 0.0
    while not start_s or time.perf_counter() - start_s < o.seconds:
        unrolls = [decode(unroll.get(timeout=60), o.unroll, o.envs) for unroll in exchange.unrolls]
        start_s = start_s or time.perf_counter()
        joined = {name: np.concatenate([unroll[name] for unroll in unrolls], 1) for name in unrolls[0]}
        batch = {name: torch.from_numpy(column) for name, column in joined.items()}
        update(network, optimizer, batch, o)
        exchange.publish(network)
        env_steps += int(batch["valid"].sum())  # reset rows are no steps
    took_s = time.perf_counter() - start_s
    print(json.dumps({"what": "limit", **vars(o), "env_steps_per_s": round(env_steps / took_s)}), flush=True)
    for process in processes:
        process.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
