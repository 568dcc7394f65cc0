"""What is tried on a stack that runs, one function after the other; each returns the words for its line, or raises."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

from tests.compose.command import run
from tests.compose.stack import Stack, service_of

__all__ = ["Publication", "check_audit", "check_drain", "check_flower", "check_hardening", "check_networks", "check_scale"]

#: What the publisher still has to send when the worker is killed.
_HELD_BACK = 0.2
_TARGETS = {"penstock-maintenance": 1, "penstock-beat": 2, "penstock-exporter": 1}


class Publication:
    """Events on their way in: a container sends them, and stops before the last ones until it is told to go on."""

    def __init__(self, stack: Stack, events: int) -> None:
        self.events = events
        self._stack = stack
        self._may_end = threading.Event()
        words = stack.client(
            "--volume", f"{stack.name}-spool:/var/lib/penstock/spool", stack.image, "publish", "-", "--json", interactive=True
        )
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def stored(self) -> int:
        return int(self._stack.rows("SELECT count(*) FROM scheduler.pipelines")[0])

    def wait_for_some(self) -> int:
        """Wait until a fifth is stored; how many are."""
        self._stack.wait_for(
            "some are stored", lambda: self.stored() >= self.events * _HELD_BACK or self._process.poll() is not None
        )
        return self.stored()

    def end(self) -> str:
        """Send the rest, and wait until the broker has confirmed all."""
        self._may_end.set()
        self._thread.join(600)
        assert self._process.stdout
        assert self._process.stderr
        said, error = self._process.stdout.read(), self._process.stderr.read()
        assert self._process.wait(600) == 0, error.decode()
        counts = json.loads(said)
        assert counts == {"published": self.events, "bad": 0, "undelivered": 0}, counts
        return f"{counts['published']:,} events confirmed by the broker"

    def stop(self) -> None:
        """Give it up, in whatever state it is."""
        self._may_end.set()
        if self._process.poll() is None:
            self._process.kill()

    def _feed(self) -> None:
        assert self._process.stdin
        before_last = int(self.events * (1 - _HELD_BACK))
        with suppress(BrokenPipeError), self._process.stdin as stream:
            for number in range(self.events):
                if number == before_last:
                    stream.flush()
                    self._may_end.wait()
                data = {"name": f"pipeline-{number}", "description": "published by tests/compose"}
                stream.write(json.dumps({"type": "scheduler.pipeline", "data": data}).encode() + b"\n")


def kill_worker(stack: Stack) -> str:
    """SIGKILL to the process, as the kernel does it when memory is short: the engine starts the container again."""
    (container,) = stack.containers_of("worker")
    before = _restarts(container)
    run(["docker", "exec", container, "sh", "-c", "kill -9 $(cut -d' ' -f1 /proc/1/task/1/children)"], check=False)
    stack.wait_for("it is started again", lambda: _restarts(container) > before)
    seconds = stack.wait_for("it is healthy again", lambda: not stack.unhealthy())
    return f"started again by the engine, healthy after {seconds:.0f} s"


def check_stored(stack: Stack, publication: Publication) -> str:
    """Every event is one row."""
    stack.wait_for("all are stored", lambda: publication.stored() >= publication.events)
    assert publication.stored() == publication.events
    return f"{publication.events:,} rows"


def check_audit(stack: Stack, events: int) -> str:
    """The ledger has every number, and `penstock audit` ends with 0."""
    report = json.loads(stack.execute("maintenance", "penstock", "audit", "--json"))
    (producer,) = [producer for producer in report["producers"] if producer["sent"]]
    outcomes = {name: count for name, count in producer["outcomes"].items() if count}
    assert producer["missing"] == 0, report
    assert producer["sent"] == events, report
    assert outcomes.get("stored", 0) == events, report
    return f"sent {producer['sent']:,}, {', '.join(f'{name} {count:,}' for name, count in outcomes.items())}, missing 0"


def check_scale(stack: Stack, workers: int) -> str:
    """Prometheus finds the new workers by itself, and sees all processes."""
    stack.up(workers=workers)
    wanted = {"penstock-worker": workers, **_TARGETS}
    seconds = stack.wait_for(f"Prometheus sees {wanted}", lambda: _targets(stack) == wanted)
    return f"Prometheus sees all {sum(wanted.values())} processes after another {seconds:.0f} s"


def check_drain(stack: Stack) -> str:
    """SIGTERM ends a worker in order, long before its grace is over."""
    ended = set(stack.containers_of("worker"))
    stack.compose("up", "--detach", "--scale", "worker=1")
    ended -= set(stack.containers_of("worker"))
    assert len(ended) == 2, ended
    stack.wait_for("Prometheus sees one", lambda: _targets(stack).get("penstock-worker") == 1)
    return "two workers gone, and gone from Prometheus"


def check_flower(stack: Stack) -> str:
    """Nothing without the login, the page with it."""
    login = stack.secret("flower_login")
    wrong = login[:-1] + ("a" if login[-1] != "a" else "b")
    codes = [_get(stack.flower_port, user) for user in (None, wrong, login)]
    assert codes == [401, 401, 200], codes
    return "401 without login, 401 with a wrong one, 200 with the right one"


def check_ports(stack: Stack) -> str:
    """Of the whole stack, one port of the host's loopback is open."""
    published = {
        name: ports for name, found in stack.inspect().items() if (ports := _published(found["NetworkSettings"]["Ports"]))
    }
    (flower,) = [name for name, found in stack.inspect().items() if service_of(found) == "flower"]
    assert published == {flower: [f"127.0.0.1:{stack.flower_port}"]}, published
    return f"Flower on 127.0.0.1:{stack.flower_port} alone"


def check_networks(stack: Stack) -> str:
    """A service on the network of events reaches the broker, and neither the database nor the world."""
    broker = stack.broker_url.partition("@")[2].partition("/")[0]
    # By its address: that its name is not known there would be no obstacle.
    places = [broker, f"{_address(stack, 'postgres')}:5432", "192.0.2.1:80"]
    words = stack.client("--entrypoint", "python3", stack.image, "-c", _CONNECT, *places)
    reached = json.loads(run(words))
    assert reached == {broker: True, **dict.fromkeys(places[1:], False)}, reached
    return "a service reaches the broker; not the database, not the world"


def check_hardening(stack: Stack) -> str:
    """No root, no capability, nothing to write on, no secret among what the engine tells of a container."""
    containers = stack.inspect()
    secrets = stack.secrets()
    for name, found in containers.items():
        host, text = found["HostConfig"], json.dumps(found)
        assert found["Config"]["User"].partition(":")[0] not in ("", "0", "root"), name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"]), name
        assert host["Memory"] > 0, name
        assert host["NanoCpus"] > 0, name
        assert host["PidsLimit"] > 0, name
        assert [secret for secret, value in secrets.items() if value in text] == [], name
    for name, found in stack.services().items():
        script = "id -u; (echo > /etc/written) 2>/dev/null && echo written; true"
        said = run(["docker", "exec", found["Id"], "sh", "-c", script]).split()
        assert len(said) == 1, f"{name}: {said}"
        assert said != ["0"], name
    assert stack.unhealthy() == []
    return f"{len(containers)} containers: not root, nothing writable, limits, no secret in docker inspect, all healthy"


#: Which of the places given take a connection, as JSON.
_CONNECT = """
import json, socket, sys
def reaches(place):
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 3).close()
    except OSError:
        return False
    return True
print(json.dumps({place: reaches(place) for place in sys.argv[1:]}))
"""


def _restarts(container: str) -> int:
    return int(run(["docker", "inspect", "--format", "{{.RestartCount}}", container]))


def _targets(stack: Stack) -> dict[str, int]:
    """Prometheus' jobs and how many of their processes answer; asked from inside, for its port is not published."""
    said = stack.execute(
        "prometheus", "promtool", "query", "instant", "--format=json", "http://127.0.0.1:9090", "sum by (job) (up)"
    )
    found: list[dict[str, Any]] = json.loads(said)
    counts = {sample["metric"]["job"]: int(sample["value"][1]) for sample in found}
    return {job: count for job, count in counts.items() if job.startswith("penstock-")}


def _get(port: int, login: str | None) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/")
    if login is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def _published(ports: dict[str, list[dict[str, str]] | None]) -> list[str]:
    return [f"{place['HostIp']}:{place['HostPort']}" for places in ports.values() for place in places or ()]


def _address(stack: Stack, service: str) -> str:
    (container,) = stack.containers_of(service)
    return run(["docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container]).strip()
