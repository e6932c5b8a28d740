"""Reverb: items/s of one writer, or of its TF dataset in batches of 256. One figure a call; prints one line of JSON.

Server, writer and reader are processes of their own. Observations are zeros, which its compression likes best. An item
of `atari` has obs and next obs as stacks of 4 frames; one of `atari-frames` is a trajectory of 5 single frames, which
Reverb stores once however many items have them. Priorities are never updated.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import numpy as np

BATCH, TABLE = 256, "table"
SHAPES = {"cartpole": ((4,), "float32"), "atari": ((84, 84, 4), "uint8"), "atari-frames": ((84, 84), "uint8")}
FILL = {"cartpole": 20_000, "atari": 3_000, "atari-frames": 5_000}
FIGURES = {
    "insert-cartpole": ("insert", "cartpole", "uniform"),
    "sample-uniform": ("sample", "cartpole", "uniform"),
    "sample-prioritised": ("sample", "cartpole", "prioritised"),
    "insert-atari": ("insert", "atari", "uniform"),
    "insert-atari-frames": ("insert", "atari-frames", "uniform"),
    "sample-atari": ("sample", "atari", "uniform"),
    "sample-atari-frames": ("sample", "atari-frames", "uniform"),
}


def signature(kind):
    import tensorflow as tf

    shape, dtype = SHAPES[kind]
    frames = kind == "atari-frames"
    columns = (
        {"obs": ((5, *shape), dtype)} if frames else {"obs": ((1, *shape), dtype), "next_obs": ((1, *shape), dtype)}
    )
    columns |= {"action": ((1,), "int64"), "reward": ((1,), "float32"), "discount": ((1,), "float32")}
    return {name: tf.TensorSpec(shape, tf.as_dtype(dtype)) for name, (shape, dtype) in columns.items()}


def item_bytes(kind, stored):
    """Of an item as it is sampled, or of what one step brings."""
    shape, dtype = SHAPES[kind]
    observations = 2 if kind != "atari-frames" else 1 if stored else 5
    return observations * int(np.prod(shape)) * np.dtype(dtype).itemsize + 16


def write(port, kind, items, seconds, answer):
    """Until `items` were written (0: for `seconds`)."""
    import reverb

    shape, dtype = SHAPES[kind]
    frames = kind == "atari-frames"
    step = {"obs": np.zeros(shape, dtype), "action": np.int64(1), "reward": np.float32(1), "discount": np.float32(1)}
    if not frames:
        step["next_obs"] = step["obs"]
    with reverb.Client(f"localhost:{port}").trajectory_writer(num_keep_alive_refs=5 if frames else 2) as writer:
        for _ in range(4 if frames else 0):
            writer.append(step)
        start, done = time.perf_counter(), 0
        while done < items if items else time.perf_counter() - start < seconds:
            writer.append(step)
            trajectory = {name: writer.history[name][-1:] for name in step}
            if frames:
                trajectory["obs"] = writer.history["obs"][-5:]
            writer.create_item(TABLE, 1.0, trajectory)
            done += 1
        writer.flush()
        answer.put((done, time.perf_counter() - start))


def read(port, seconds, answer):
    import reverb

    dataset = reverb.TrajectoryDataset.from_table_signature(
        f"localhost:{port}", TABLE, max_in_flight_samples_per_worker=512, num_workers_per_iterator=1
    )
    batches = iter(dataset.batch(BATCH).prefetch(2))
    for _ in range(4):
        next(batches)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        done += BATCH
    answer.put((done, time.perf_counter() - start))


def apart(context, target, *arguments):
    """Run it in a process; (items, seconds, processor seconds of this process meanwhile)."""
    answer = context.Queue()
    process = context.Process(target=target, args=(*arguments, answer), daemon=True)
    before = time.process_time()
    process.start()
    items, took_s = answer.get(timeout=120)
    used_s = time.process_time() - before
    process.kill()
    process.join()
    return items, took_s, used_s


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=FIGURES)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    import reverb

    does, kind, sampler = FIGURES[options.what]
    selector = reverb.selectors.Uniform() if sampler == "uniform" else reverb.selectors.Prioritized(0.6)
    table = reverb.Table(
        TABLE,
        sampler=selector,
        remover=reverb.selectors.Fifo(),
        max_size=100_000,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=signature(kind),
    )
    server, context = reverb.Server([table]), multiprocessing.get_context("spawn")
    if does == "insert":
        items, took_s, used_s = apart(context, write, server.port, kind, 0, options.seconds)
    else:
        apart(context, write, server.port, kind, FILL[kind], 0.0)
        items, took_s, used_s = apart(context, read, server.port, options.seconds)
    figures = {
        "per_s": items / took_s,
        "gb_per_s": items * item_bytes(kind, stored=does == "insert") / took_s / 1e9,
        "server_cpu_percent": 100 * used_s / took_s,
    }
    print(json.dumps(figures), flush=True)
    os._exit(0)  # its server does not always end by itself


if __name__ == "__main__":
    sys.exit(main())
