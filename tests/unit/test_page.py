"""learner/page.py: what the page is told, and what it tells, over a real socket."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.config import Config, NetworkConfig
from core.errors import ConfigError
from core.http import HttpServer
from core.security import OPEN, Security, Tokens
from learner.page import FILES, WEB, Page, serve
from learner.status import Seated, Status, Waiter

TOKEN = "a-token-of-the-tests"


class Served:
    """A page behind a server."""

    def __init__(self, config: Config, security: Security = OPEN) -> None:
        self.page = Page(config, Path("runs/x"), security, life="1")
        self.server = serve(self.page, "127.0.0.1:0", security)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(path)[1])
        return found


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served(Config(env_kwargs={"api_key": "hunter2", "size": 3}, target_return=475.0, env_steps=1000))
    yield served
    served.server.close()


def line(env_steps: int, **figures: Any) -> dict[str, Any]:
    return {"kind": "progress", "env_steps": env_steps, "version": 1, "bottleneck": "actors", **figures}


def test_before_the_first_unrolls_it_says_who_waits(served: Served) -> None:
    served.page.status(Status(waiters=(Waiter("experience", "the learner", "actors", float("-inf"), "0 of 2"),)))
    live = served.json("/live.json")
    assert live["state"] == "starting"
    assert live["waiters"] == [
        {"table": "experience", "who": "the learner", "what": "actors", "waited_s": None, "reason": "0 of 2"}
    ]
    assert (live["now"], live["progress"], live["actors"]) == ({}, {}, [])


def test_lines_become_curves_and_the_newest_is_shown_whole(served: Served) -> None:
    served.page.record(line(100, mean_return=9.0, loss=0.5))
    served.page.record(line(200, mean_return=11.0, loss=0.25, advice="more actors"))
    served.page.record({"kind": "evaluation", "env_steps": 200, "eval_return": 20.0, "episodes": 5, "took_s": 1.0})
    live = served.json("/live.json")
    assert live["state"] == "training"
    assert live["now"] == line(200, mean_return=11.0, loss=0.25, advice="more actors")
    assert live["progress"] == {"env_steps": [100, 200], "mean_return": [9.0, 11.0], "loss": [0.5, 0.25]}
    assert live["evaluations"] == {"env_steps": [200], "eval_return": [20.0]}
    assert live["evaluation"]["eval_return"] == 20.0


def test_a_resumed_run_has_the_curves_of_its_former_lives(served: Served) -> None:
    evaluation = {"kind": "evaluation", "env_steps": 10, "eval_return": 4.0}
    served.page.read([json.dumps(line(10, loss=1.0)), json.dumps(evaluation)])
    served.page.record(line(20, loss=2.0))
    live = served.json("/live.json")
    assert live["progress"] == {"env_steps": [10, 20], "loss": [1.0, 2.0]}
    assert live["evaluation"]["eval_return"] == 4.0


def test_each_actor_is_a_row(served: Served) -> None:
    seats = (Seated(0, "a", 7, "acting", 1, 60, 30.0, 0.75, 3, 0.5), Seated(2, "c", 9, "joining"))
    served.page.status(Status(seated=seats))
    first, second = served.json("/live.json")["actors"]
    assert first == {
        **{"slot": 0, "host": "a", "pid": 7, "state": "acting", "restarts": 1, "version": 3, "silent_s": 0.5},
        **{"env_steps": 60, "env_steps_per_s": 30.0, "act_share": 0.75},
    }
    assert (second["slot"], second["version"], second["silent_s"], second["act_share"]) == (2, -1, None, None)


def test_it_is_made_once_for_each_change_however_many_ask(served: Served) -> None:
    served.page.record(line(100))
    first = served.page.live()
    assert served.page.live() is first
    served.page.over("budget")
    assert json.loads(served.page.live())["ended"] == "budget"
    assert json.loads(served.page.live())["state"] == "over"


def test_the_config_is_shown_without_what_looks_secret(served: Served) -> None:
    about = served.json("/about.json")
    assert (about["algorithm"], about["env"], about["run_dir"]) == ("ppo", "CartPole-v1", "runs/x")
    assert (about["budget_env_steps"], about["target_return"]) == (1000, 475.0)
    assert "hunter2" not in json.dumps(about)
    assert "api_key: (hidden)" in about["config"]
    assert "size: 3" in about["config"]


def test_a_token_of_the_run_is_shown_nowhere() -> None:
    security = Security(Tokens(TOKEN))
    page = Page(Config(env_kwargs={"note": f"see {TOKEN}"}), Path(f"runs/{TOKEN}"), security)
    page.status(Status())
    assert TOKEN.encode() not in page.about() + page.live()


def test_every_file_is_served_with_a_strict_policy(served: Served) -> None:
    for path, (name, kind) in FILES.items():
        answer, body = served.get(path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert body == (WEB / name).read_bytes()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    on_disk = {str(file.relative_to(WEB)) for file in WEB.rglob("*") if file.is_file()}
    assert on_disk == {name for name, _ in FILES.values()}


def test_the_page_needs_nothing_from_elsewhere_and_no_inline_code() -> None:
    html = (WEB / "index.html").read_text(encoding="utf-8")
    used = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert {f"/{name}" for name in used} < FILES.keys()
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", html)
    own = "".join(
        (WEB / name).read_text(encoding="utf-8") for name in ("page.js", "charts.js", "page.css", "index.html")
    )
    assert "http:" not in own
    assert "https:" not in own
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", own)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(served: Served, method: str) -> None:
    answer, _ = served.get("/live.json", method)
    assert answer.status == 501
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/../page.py", "/uplot/LICENSE", "/config.yaml", "/page.js/../../page.py"])
def test_no_other_file_can_be_had(served: Served, path: str) -> None:
    assert served.get(path)[0].status == 404


def test_a_port_in_use_is_an_error_but_for_a_run_that_goes_on(served: Served) -> None:
    address = f"127.0.0.1:{served.server.port}"
    with pytest.raises(ConfigError, match=rf"network.page: {address} cannot be used"):
        serve(served.page, address)
    other: HttpServer = serve(served.page, address, port_may_change=True)
    assert other.port != served.server.port
    other.close()


def test_its_address_is_checked_with_the_settings() -> None:
    assert NetworkConfig().page == "127.0.0.1:0"
    assert NetworkConfig(page=None).page is None
    with pytest.raises(ConfigError, match=r"page: must be HOST:PORT .* or null for no page, not '8080'"):
        NetworkConfig(page="8080")
