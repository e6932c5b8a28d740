"""What docs/replay.md shows runs: the example, and every block of Python in the order in which it stands there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from tests.services.replaying import FileServer, file_server
from tests.services.serving import Serving

__all__ = ["file_server"]
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_the_example_learns_the_way(
    file_server: FileServer, serving: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "replay_client.py"))["main"]
    values = main(serving.address)
    np.testing.assert_allclose(values[:-1, 1], 0.9 ** np.arange(6, -1, -1), atol=0.05)
    assert (values[:-1, 1] > values[:-1, 0]).all()
    shown = re.match(r"(\d,\d{3}) steps inserted, \d+,\d{3} drawn\na checkpoint of \1 steps", capsys.readouterr().out)
    assert shown
    main(serving.address)
    assert capsys.readouterr().out.startswith(f"table 'corridor' holds {shown[1]} steps of an earlier run")


def test_the_blocks_of_the_document_run(
    file_server: FileServer, serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    text = (ROOT / "docs" / "replay.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) > 5
    code = "\n".join(blocks).replace('"127.0.0.1:7401"', repr(serving.address))
    names: dict[str, object] = {}
    exec(compile(code, "docs/replay.md", "exec"), names)
    assert names["client"]
