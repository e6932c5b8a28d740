"""Is it fast, and if not, what holds it back?"""

from __future__ import annotations

from deploy.grafana.panels import Board, Panel, Query, Row
from deploy.grafana.queries import buckets, newest, quantile, rate, series, table_rate

ACTING = {
    "actor_act_s": "environments and policy",
    "actor_wait_weights_s": "waits for weights",
    "actor_wait_acks_s": "waits for acknowledgements",
}
BOTTLENECK = Row(
    "Bottleneck",
    [
        Panel(
            "What holds the run back",
            "The part that does, of the last half minute. `shoal status ADDRESS` and the page say what would help.",
            "short",
            [Query(newest("bottleneck", "part"), "{{part}}")],
            width=24,
            stacked=True,
        )
    ],
)
ACTORS = Row(
    "Actors",
    [
        Panel(
            "Env steps by actor",
            "Env steps a second that came from the actor in each slot.",
            "ops",
            [Query(rate("actor_env_steps", "slot"), "slot {{slot}}")],
            stacked=True,
        ),
        Panel(
            "Where the actors' time goes",
            "Shares of the actors' time: environments and policy, waiting for weights, waiting for acknowledgements.",
            "percentunit",
            [Query(f"{rate(name)} / ({' + '.join(map(rate, ACTING))})", legend) for name, legend in ACTING.items()],
            stacked=True,
        ),
        Panel(
            "Actors",
            "Actors in the run, and how many took the slot of one that was lost.",
            "short",
            [
                Query(newest("actors"), "in the run"),
                Query(f"sum({series('restarts', process='actor')})", "replaced so far"),
            ],
        ),
    ],
)
LEARNER = Row(
    "Learner",
    [
        Panel(
            "Where the learner's time goes",
            "Shares of its time; what is left of 1 is publishing, checkpoints and its own book-keeping.",
            "percentunit",
            [
                Query(rate("learner_update_s"), "updates"),
                Query(rate("learner_wait_data_s"), "waits for data"),
                Query(rate("learner_evaluation_s"), "evaluation"),
            ],
            stacked=True,
        ),
        Panel(
            "Staleness",
            "How many versions behind the newest one the unrolls were that came in: how many a second of each.",
            "short",
            [Query(buckets("staleness"), "{{le}}")],
            kind="heatmap",
        ),
        Panel(
            "Too stale",
            "Items a second that were not learned from because they were too stale.",
            "ops",
            [Query(rate("stale_items_dropped"), "dropped")],
        ),
        Panel(
            "Weights sent",
            "Bytes a second that the actors' streams took.",
            "Bps",
            [Query(rate("weights_sent_bytes"), "sent")],
        ),
        Panel(
            "Size of the weights",
            "The newest version, encoded; every actor is sent as much.",
            "bytes",
            [Query(newest("weights_bytes"), "a version")],
        ),
        Panel(
            "Latency of the weights",
            "From a version's publication until an actor's stream had taken it.",
            "s",
            [Query(quantile(share, "weights_latency_s"), f"p{100 * share:g}") for share in (0.5, 0.95, 0.99)],
        ),
    ],
)
TABLES = Row(
    "Tables",
    [
        Panel(
            "Fill of queues and tables",
            "Items in a table, as a share of those that fit.",
            "percentunit",
            [Query(f"{newest('table_items', 'table')} / {newest('table_capacity_items', 'table')}", "{{table}}")],
        ),
        Panel(
            "Items in and out",
            "Items a second that tables acknowledged and handed out.",
            "ops",
            [
                Query(table_rate("table_inserted_items"), "{{table}}: inserted"),
                Query(table_rate("table_sampled_items"), "{{table}}: sampled"),
            ],
        ),
        Panel(
            "Held by the rate limiter",
            "Share of the learner's time in which a rate limiter held its draws back.",
            "percentunit",
            [Query(rate("learner_wait_limiter_s"), "draws held")],
        ),
        Panel(
            "Who waits, by reason",
            "Calls, and the learner, that wait, by what they wait for: room to insert, items to sample, a round.",
            "short",
            [Query(newest("waiters", "table, what"), "{{table}}: {{what}}")],
            width=12,
            stacked=True,
        ),
        Panel(
            "Longest wait, by reason",
            "How long the first of them has waited. What only grows is blocked: `shoal status` says who must act.",
            "s",
            [Query(newest("longest_wait_s", "table, what"), "{{table}}: {{what}}")],
            width=12,
        ),
    ],
)
PROCESSES = Row(
    "Processes",
    [
        Panel(
            "Resident memory",
            "Of every process; a replay server's has its tables' files in it.",
            "bytes",
            [Query(newest("rss_bytes", "process, instance"), "{{process}} {{instance}}")],
        ),
        Panel(
            "Processor time",
            "Cores that a process uses.",
            "short",
            [Query(rate("cpu_s", "process"), "{{process}}")],
        ),
        Panel(
            "Room on the disks",
            "Share that is left where the run folder and the tables' files are.",
            "percentunit",
            [Query(f"{newest('disk_free_bytes', 'process')} / {newest('disk_bytes', 'process')}", "{{process}}")],
        ),
        Panel(
            "GPU memory",
            "Memory of the learner's GPU that is in use, and all of it.",
            "bytes",
            [Query(newest("gpu_memory_bytes"), "in use"), Query(newest("gpu_memory_limit_bytes"), "all")],
            width=12,
            needs_gpu=True,
        ),
        Panel(
            "GPU busy",
            "Share of time in which the learner's GPU computed; needs the package nvidia-ml-py beside the learner.",
            "percentunit",
            [Query(newest("gpu_busy_share"), "busy")],
            width=12,
            needs_gpu=True,
        ),
    ],
)
BOARD = Board("System", "Is it fast, and if not, what holds it back?", [BOTTLENECK, ACTORS, LEARNER, TABLES, PROCESSES])
