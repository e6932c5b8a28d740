"""Writes deploy/grafana/dashboards/*.json: `python -m deploy.grafana.make`.

tests/unit/test_dashboards.py fails where a file is not what this makes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import replay, system, training
from deploy.grafana.panels import build

FOLDER = Path(__file__).with_name("dashboards")
BOARDS = (training.BOARD, system.BOARD, replay.BOARD)


def texts() -> dict[str, str]:
    """File name -> JSON."""
    return {
        f"{board.name}.json": json.dumps(build(board).build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for board in BOARDS
    }


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name, file=sys.stderr)
