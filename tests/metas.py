"""A checkpoint's meta.json, changed as if it had been written so: its checksum fits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def change_meta(path: Path, **changes: Any) -> None:
    meta = json.loads((path / "meta.json").read_text())
    meta = {name: value for name, value in {**meta, **changes}.items() if name != "meta_sha256"}
    text = json.dumps(meta, sort_keys=True, separators=(",", ":"))
    (path / "meta.json").write_text(json.dumps({**meta, "meta_sha256": hashlib.sha256(text.encode()).hexdigest()}))
