"""The probe port: what it answers, and that no client and no forked child can harm it."""

from __future__ import annotations

import http.client
import os
import socket
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge

from penstock_worker import probe
from penstock_worker.errors import ConfigurationError
from penstock_worker.probe import Check, ProbePort


class Port:
    """A port on which the test decides what is wrong."""

    def __init__(self):
        self.trouble, self.metrics = (), CollectorRegistry()
        Gauge("facts", "Facts", registry=self.metrics).set(7)
        self.port = ProbePort("127.0.0.1", 0, Check, lambda: Check(self.trouble), self.metrics)
        self.port.start()

    def ask(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port.port, timeout=60)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port.port), timeout=20)


@pytest.fixture
def port():
    port = Port()
    yield port
    port.port.stop()


def test_it_says_what_is_wrong(port):
    well = port.ask("/ready")
    port.trouble = ("the database is away", "stopping")

    assert well == (200, '{"ready": true, "reasons": []}\n')
    assert port.ask("/ready?full") == (503, '{"ready": false, "reasons": ["the database is away", "stopping"]}\n')
    assert port.ask("/ready", "HEAD") == (503, "")
    assert port.ask("/live") == (200, '{"live": true, "reasons": []}\n')


def test_it_shows_metrics_and_nothing_else(port, capfd):
    assert port.ask("/metrics") == (200, "# HELP facts Facts\n# TYPE facts gauge\nfacts 7.0\n")
    assert port.ask("/metrics", Accept="application/openmetrics-text; version=none") == port.ask("/metrics")
    assert port.ask("/") == (404, "there are /live, /ready and /metrics\n")
    assert port.ask("/live", "POST")[0] == 501
    assert capfd.readouterr() == ("", "")


def test_an_error_is_told_and_logged(port, caplog):
    port.trouble = (object(),)  # not for JSON

    assert port.ask("/ready") == (500, "an error, see the log of this process\n")
    assert port.ask("/live")[0] == 200
    assert [record.getMessage() for record in caplog.records] == ["/ready could not be answered"]


def test_clients_that_say_nothing_keep_nobody_out(port, monkeypatch):
    """However many, and before their time is over: the oldest of them is cut off."""
    monkeypatch.setattr(probe._Handler, "timeout", 3600)
    with ExitStack() as clients:
        mute = [clients.enter_context(port.connect()) for _ in range(40)]

        assert port.ask("/live")[0] == 200
        assert mute[0].recv(1) == b""


def test_a_port_that_is_taken_is_one_line(port):
    number = port.port.port
    second = ProbePort("127.0.0.1", number, Check, Check, CollectorRegistry())

    with pytest.raises(ConfigurationError, match=rf"^PENSTOCK_PROBE_PORT: 127.0.0.1:{number} is taken by another process"):
        second.start()
    nowhere = ProbePort("no.such.host.invalid", number, Check, Check, CollectorRegistry())
    with pytest.raises(ConfigurationError, match=r"^PENSTOCK_PROBE_ADDRESS, PENSTOCK_PROBE_PORT: cannot listen on no\.such"):
        nowhere.start()


def test_a_child_does_not_keep_the_port(port):
    """It may live longer than its parent, whose successor must be able to listen."""
    number = port.port.port
    answered, ask = os.pipe()
    child = os.fork()
    if child == 0:  # does nothing until the pipe ends
        os.close(ask)
        os.read(answered, 1)
        os._exit(0)
    os.close(answered)
    port.port.stop()

    successor = ProbePort("127.0.0.1", number, Check, Check, CollectorRegistry())
    try:
        successor.start()
        successor.stop()
    finally:
        os.close(ask)
        os.waitpid(child, 0)
