"""What a worker's probe port answers on bad days, and who is restarted for it: only who hangs."""

from __future__ import annotations

import json
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession
from penstock_worker.settings import Settings
from penstock_worker.stack.commands import beat_command
from penstock_worker.stack.ports import find_free_port
from tests.acceptance.witness import until
from tests.commands import penstock_here
from tests.servers.process import LocalProcess

pytestmark = pytest.mark.acceptance


class Prober:
    """What asks a probe port, as Kubernetes or a person does."""

    def __init__(self) -> None:
        self.port = find_free_port()

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body; 0 if nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    def is_ready(self) -> bool:
        return self.ask("/ready")[0] == 200

    def reasons(self, path: str) -> str:
        """Why it is not live or ready; nothing if it is, or does not answer."""
        status, body = self.ask(path)
        return "; ".join(json.loads(body)["reasons"]) if status == 503 else ""

    def wait_until_unready(self, reason: str) -> None:
        until(lambda: reason in self.reasons("/ready"))


@pytest.fixture
def prober() -> Prober:
    return Prober()


@pytest.fixture
def worker_options(prober: Prober, tmp_path: Path) -> dict[str, object]:
    return {
        "probe_port": prober.port,
        "ready_check_s": 0.5,
        "stalled_after_s": 3,
        "connect_timeout_s": 2,
        "health_folder": tmp_path / "health",
    }


def health(folder: object, *words: str) -> tuple[int, dict[str, Any]]:
    done = penstock_here("health", "--json", *words, PENSTOCK_HEALTH_FOLDER=str(folder))
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("failpoints", ["before_ack=wait"], indirect=True)
@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_the_days_of_a_worker(
    prober, new_worker, worker_options, failpoints, broker_url, broker_server, postgres_server, database_url
):
    worker, folder = new_worker(), worker_options["health_folder"]

    # It starts, and there is no broker.
    broker_server.stop()
    worker.launch()
    prober.wait_until_unready("has not connected to the broker yet")
    assert prober.ask("/live") == (200, '{"live": true, "reasons": []}\n')
    broker_server.start()
    until(prober.is_ready)

    # Nothing happens, and the database goes.
    postgres_server.stop()
    prober.wait_until_unready("paused, the database is away: ")
    assert prober.ask("/live")[0] == 200
    assert "penstock_worker_paused 1.0\n" in prober.ask("/metrics")[1]
    until(lambda: health(folder)[1]["status"] == "degraded")
    _, told = health(folder)
    assert (health(folder)[0], health(folder, "--ready")[0], told["persistence"]["status"]) == (0, 1, "unhealthy")
    postgres_server.start()
    until(prober.is_ready)

    # The broker is there and says nothing, for longer than a loop may hang.
    broker_server.pause()
    prober.wait_until_unready("the broker does not answer")
    assert prober.ask("/live")[0] == 200
    broker_server.resume()
    until(prober.is_ready)

    # The loop hangs.
    failpoints.arm("before_ack")
    with Producer(broker_url) as producer:
        producer.publish(TranslationSession(session_id="s"))
    until(lambda: "the event loop has not turned for" in prober.reasons("/live"))
    assert "the event loop has not turned for" in prober.reasons("/ready")
    failpoints.release("before_ack")
    until(lambda: prober.is_ready() and prober.ask("/live")[0] == 200)
    assert re.search(r'penstock_events_total{outcome="stored",type="translation.session"} [1-9]', prober.ask("/metrics")[1])
    until(lambda: health(folder, "--ready")[0] == 0)
    _, told = health(folder)
    assert (told["status"], told["persistence"]) == ("healthy", {"status": "healthy", "backend": "postgresql"})

    # A child that was forked with the port open does not keep it.
    old = {child.pid for child in worker.children()}
    psutil.Process(min(old)).kill()
    (new,) = until(lambda: [child for child in worker.children() if child.pid not in old])
    until(lambda: [one for one in new.net_connections("tcp") if one.status == psutil.CONN_LISTEN] == [])
    worker.send_signal(signal.SIGTERM)
    until(lambda: prober.ask("/live")[0] == 0)


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_a_worker_for_jobs_and_a_beat(
    prober, new_worker, worker_options, broker_url, postgres_server, database_url, tmp_path, request
):
    def new_beat(name: str, port: int) -> LocalProcess:
        options = {**worker_options, "database_url": database_url, "broker_url": broker_url, "probe_port": port}
        environment = {f"PENSTOCK_{option.upper()}": str(value) for option, value in options.items()}
        beat = LocalProcess(name, beat_command(Settings()), log=tmp_path / f"{name}.log", env=environment, cwd=tmp_path)
        request.addfinalizer(beat.clean_up)
        beat.launch()
        return beat

    worker_options["worker_only"] = "maintenance"
    worker, folder, of_beat = new_worker(), worker_options["health_folder"], Prober()
    worker.launch()
    beat = new_beat("beat", of_beat.port)
    until(lambda: prober.is_ready() and of_beat.is_ready())
    until(lambda: len(health(folder)[1]["workers"]) == 1 and health(folder, "--ready")[0] == 0)
    told = health(folder)[1]
    assert [(one["worker"], one["does"], one["queue"]) for one in told["workers"]] == [
        (worker.hostname, "maintenance", "penstock.maintenance")
    ]
    assert [(one["pid"], one["does"]) for one in told["beats"]] == [(beat.pid, "beat")]
    assert "penstock_beat_leading 1.0\n" in of_beat.ask("/metrics")[1]
    assert "penstock_worker_ready 1.0\n" in prober.ask("/metrics")[1]
    assert health(folder, "--of", "ingest")[0] == 1

    # A port that is taken.
    rival = new_beat("rival", of_beat.port)
    until(lambda: not rival.is_running)
    (line,) = [line for line in rival.logs().splitlines() if "PENSTOCK_PROBE_PORT" in line]
    assert (rival.exit_code, f"127.0.0.1:{of_beat.port} is taken by another process" in line) == (2, True)
    assert "Traceback" not in rival.logs()

    # The database goes.
    postgres_server.stop()
    for each in (prober, of_beat):
        each.wait_until_unready("the database is away")
        assert each.ask("/live")[0] == 200
    assert health(folder)[0] == 0
    postgres_server.start()
    until(lambda: prober.is_ready() and of_beat.is_ready())
    beat.stop()
    until(lambda: health(folder)[1]["beats"] == [])
