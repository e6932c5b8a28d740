"""The replay server: what goes in and out, what is held, what is lost."""

from __future__ import annotations

from deploy.grafana.panels import Board, Panel, Query, Row
from deploy.grafana.queries import newest, rate, series, table_rate

TABLES = Row(
    "Tables",
    [
        Panel(
            "Inserted",
            "Items a second that a table acknowledged.",
            "ops",
            [Query(table_rate("table_inserted_items"), "{{table}}")],
        ),
        Panel(
            "Sampled",
            "Items a second that a table handed out.",
            "ops",
            [Query(table_rate("table_sampled_items"), "{{table}}")],
        ),
        Panel(
            "Samples per insert",
            "How often an item is handed out, of late: what the rate limiter keeps near its setting.",
            "short",
            [Query(f"{table_rate('table_sampled_items')} / {table_rate('table_inserted_items')}", "{{table}}")],
        ),
        Panel(
            "Fill",
            "Items, and how many fit.",
            "short",
            [
                Query(newest("table_items", "table"), "{{table}}: items"),
                Query(newest("table_capacity_items", "table"), "{{table}}: fit"),
            ],
        ),
        Panel(
            "Evicted",
            "Items a second that made room for newer ones.",
            "ops",
            [Query(table_rate("table_evicted_items"), "{{table}}")],
        ),
        Panel(
            "Staged",
            "Unrolls that wait for their round to be applied (a fixed policy lag).",
            "short",
            [Query(newest("table_staged_items", "table"), "{{table}}")],
        ),
    ],
)
SERVER = Row(
    "Server",
    [
        Panel(
            "Memory of the tables",
            "Memory, or files, of all tables, and what --max-bytes allows.",
            "bytes",
            [Query(newest("replay_bytes"), "held"), Query(newest("replay_limit_bytes"), "allowed")],
        ),
        Panel(
            "In flight",
            "Items on their way into tables, draws on their way out.",
            "bytes",
            [Query(newest("in_flight_bytes", "what"), "{{what}}")],
        ),
        Panel(
            "Streams",
            "Insert and Sample streams that are open.",
            "short",
            [Query(newest("streams"), "streams")],
        ),
        Panel(
            "Who waits, by reason",
            "Calls that wait, by what they wait for.",
            "short",
            [Query(newest("waiters", "table, what"), "{{table}}: {{what}}")],
            stacked=True,
        ),
        Panel(
            "Longest wait, by reason",
            "How long the first of them has waited.",
            "s",
            [Query(newest("longest_wait_s", "table, what"), "{{table}}: {{what}}")],
        ),
        Panel(
            "Processor time",
            "Cores that the server uses.",
            "short",
            [Query(rate("cpu_s", process="replay"), "cores")],
        ),
    ],
)
FAULTS = Row(
    "Faults and disks",
    [
        Panel(
            "Repeated or gone",
            "Items a second that came again and were not inserted again; priorities for items that were gone; draws by "
            "reference that met an overwrite.",
            "ops",
            [
                Query(table_rate("table_duplicates"), "{{table}}: duplicates"),
                Query(table_rate("table_unknown_keys"), "{{table}}: priorities of items that are gone"),
                Query(table_rate("torn_reads"), "{{table}}: torn reads"),
            ],
        ),
        Panel(
            "Lost",
            "Items that recoveries and rollbacks did not bring back, so far.",
            "short",
            [Query(f"max by (table) ({series('table_lost_items')})", "{{table}}")],
        ),
        Panel(
            "Age of the manifest",
            "What a power cut would lose, in seconds; tables in memory have none.",
            "s",
            [Query(newest("manifest_age_s", "table"), "{{table}}")],
        ),
        Panel(
            "Resident memory",
            "Of the server, with its tables' files.",
            "bytes",
            [Query(newest("rss_bytes", process="replay"), "resident")],
            width=12,
        ),
        Panel(
            "Room on the disk",
            "Bytes that are left where the tables' files are.",
            "bytes",
            [Query(newest("disk_free_bytes", process="replay"), "free")],
            width=12,
        ),
    ],
)
BOARD = Board(
    "Replay", "The replay server: what goes in and out, what is held, what is lost.", [TABLES, SERVER, FAULTS]
)
