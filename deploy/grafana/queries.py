"""PromQL over the catalogue of core/metrics.py: what it does not have is an error here, not an empty panel there."""

from __future__ import annotations

from core.metrics import CATALOGUE

WINDOW = "$__rate_interval"
"""Grafana's: at least four scrapes."""


def series(name: str, suffix: str = "", /, **where: str) -> str:
    """The series of a metric whose labels are these: "~..." matches a regular expression, "!~..." what does not.

    `suffix` is what a histogram has behind its name: bucket, sum or count.
    """
    metric = CATALOGUE[name]
    if (metric.kind == "histogram") != (suffix in ("bucket", "sum", "count")):
        raise ValueError(f"{name} is a {metric.kind}: it has no series {suffix or 'without a suffix'!r}")
    unknown = where.keys() - {*metric.labels}
    if unknown:
        raise ValueError(f"{name} has the labels {metric.labels}, not {sorted(unknown)}")
    suffix = "total" if metric.kind == "counter" else suffix
    full = f"shoal_{name}_{suffix}" if suffix else f"shoal_{name}"
    chosen = ",".join(_matcher(label, value) for label, value in where.items())
    return f"{full}{{{chosen}}}" if chosen else full


def rate(name: str, /, by: str = "", **where: str) -> str:
    """A counter's increase a second, added up by these labels."""
    if CATALOGUE[name].kind != "counter":
        raise ValueError(f"{name} is a {CATALOGUE[name].kind}, and only counters have a rate")
    return f"sum{_by(by)}(rate({series(name, **where)}[{WINDOW}]))"


def table_rate(name: str) -> str:
    """The same of a table: the learner and the replay server both tell it, and the larger one counts."""
    return f"max by (table) (rate({series(name)}[{WINDOW}]))"


def newest(name: str, /, by: str = "", **where: str) -> str:
    """A gauge; of several that tell it the largest."""
    if CATALOGUE[name].kind != "gauge":
        raise ValueError(f"{name} is a {CATALOGUE[name].kind}, not a gauge")
    return f"max{_by(by)}({series(name, **where)})"


def quantile(share: float, name: str) -> str:
    """Of a histogram."""
    return f"histogram_quantile({share:g}, {buckets(name)})"


def buckets(name: str) -> str:
    """What came into each bucket of a histogram, a second."""
    return f"sum by (le) (rate({series(name, 'bucket')}[{WINDOW}]))"


def _matcher(label: str, value: str) -> str:
    for sign, operator in (("!~", "!~"), ("~", "=~")):
        if value.startswith(sign):
            return f'{label}{operator}"{value.removeprefix(sign)}"'
    return f'{label}="{value}"'


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""
