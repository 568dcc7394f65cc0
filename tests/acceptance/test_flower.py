"""Flower as people see it: in a browser, behind its login, while events flow."""

from __future__ import annotations

import base64
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import pytest
from flower.urls import handlers
from playwright.sync_api import Page
from tornado.web import url

from penstock_worker.stack.ports import find_free_port
from tests.acceptance.witness import Witness, until
from tests.browser import open_browser
from tests.servers.celery_worker import Failpoints, WorkerProcess, worker_settings
from tests.servers.databases import PostgresServer
from tests.servers.process import LocalProcess
from tests.servers.valkey import ValkeyServer

pytestmark = pytest.mark.acceptance

LONG_MS = 120_000
#: In every payload, and nowhere else.
MARK = "words-of-a-person"
#: With which Flower signs who has logged in elsewhere.
COOKIE_SECRET = "signs-what-browsers-keep"


@dataclass
class Site:
    """What runs, and the address with the login as `penstock flower` has printed it."""

    url: str
    flower: LocalProcess
    worker: WorkerProcess
    witness: Witness
    broker: ValkeyServer
    secrets: tuple[str, ...]

    @property
    def address(self) -> str:
        """Without the login."""
        parts = urlsplit(self.url)
        return f"http://{parts.hostname}:{parts.port}"

    def ask(self, path: str, method: str = "GET", with_login: bool = True, login: str | None = None) -> tuple[int, str]:
        """Status and text."""
        parts = urlsplit(self.url)
        request = urllib.request.Request(f"{self.address}{path}", method=method, data=b"" if method == "POST" else None)
        if with_login:
            text = f"{parts.username}:{parts.password}" if login is None else login
            request.add_header("Authorization", f"Basic {base64.b64encode(text.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()


@pytest.fixture(scope="module")
def site(
    postgres_server: PostgresServer,
    template_database: str,
    valkey_server: ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A worker with one child and a Flower; the module's own, because both take their time to start."""
    valkey_server.empty()
    folder = tmp_path_factory.mktemp("flower")
    database = postgres_server.create_database(template_database)
    environment = worker_settings(database, valkey_server.url, Failpoints(folder, ""), {"concurrency": 1})
    worker = WorkerProcess("shown", folder, environment)
    flower = LocalProcess(
        "flower",
        [sys.executable, "-m", "penstock_worker", "flower", "--port", str(find_free_port())],
        log=folder / "flower.log",
        env=environment | {"PENSTOCK_LOG_LEVEL": "DEBUG", "FLOWER_COOKIE_SECRET": COOKIE_SECRET},
        cwd=folder,
        ready=lambda process: "Visit me at" in process.logs() and "Connected to" in process.logs(),
    )
    try:
        worker.start()
        flower.start()
        printed = re.search(r"^Flower: (\S+)$", flower.logs(), re.MULTILINE)
        assert printed is not None
        passwords = tuple(str(urlsplit(secret).password) for secret in (printed[1], valkey_server.url, database))
        with Witness(database, valkey_server.url) as witness:
            yield Site(printed[1], flower, worker, witness, valkey_server, (*passwords, COOKIE_SECRET))
    finally:
        flower.clean_up()
        worker.clean_up()
        postgres_server.drop_database(database)


@pytest.fixture(scope="module")
def page(chromium_program: str, site: Site) -> Iterator[Page]:
    """A browser that was given the printed address, login included."""
    with open_browser(chromium_program) as page:
        page.set_default_timeout(LONG_MS)
        page.goto(site.url)
        yield page


def test_the_dashboard_counts_while_events_flow(site: Site, page: Page) -> None:
    row = page.locator("#workers-table tbody tr", has_text=site.worker.hostname)
    row.get_by_text("Online").wait_for()
    seen = [processed(page, site)]
    for _ in range(2):
        site.witness.publish(30, text=MARK)
        site.witness.wait_until_told()
        until(lambda: processed(page, site) > seen[-1])  # the page asks by itself
        seen.append(processed(page, site))
    site.witness.assert_all_stored()


def processed(page: Page, site: Site) -> int:
    row = page.locator("#workers-table tbody tr", has_text=site.worker.hostname)
    return int(row.locator("td").nth(3).inner_text() or 0)


def test_batches_are_tasks_with_counts(site: Site, page: Page) -> None:
    site.witness.publish(20, text=MARK)
    site.witness.wait_until_told()
    page.goto(f"{site.address}/tasks")
    row = page.locator("#tasks-table tbody tr", has_text="{'stored': 20,").first
    row.wait_for()
    assert "penstock.write_batch" in row.inner_text()
    assert re.search(r"<\d+ events in \d+ messages, ", row.inner_text())
    row.locator("a[href*='/task/']").first.click()
    page.get_by_text("{'stored': 20,").wait_for()


def test_the_broker_page_shows_the_queue_of_events_with_its_depth(site: Site, page: Page) -> None:
    site.worker.pause()
    try:
        site.witness.publish(140, events_per_message=20, text=MARK)
        waiting = site.witness.left_in_queue()
        assert waiting == 8  # and a last word
        page.goto(f"{site.address}/broker")
        cells = page.locator("#queue-table tbody tr", has=page.get_by_text("penstock.events", exact=True)).locator("td")
        assert (cells.nth(0).inner_text(), int(cells.nth(3).inner_text())) == ("penstock.events", waiting)
        lengths = {
            queue["name"]: queue["messages_ready"] for queue in json.loads(site.ask("/api/queues/length")[1])["active_queues"]
        }
        assert lengths == {"penstock.events": waiting, "penstock.maintenance": 0}
    finally:
        site.worker.resume()
    site.witness.wait_until_told()


def test_a_page_may_not_control_the_workers(site: Site, page: Page) -> None:
    """From its own session: the browser has logged in, and the request is of the same origin."""
    page.goto(f"{site.address}/workers")
    post = "path => fetch(path, {method: 'POST'}).then(answer => answer.status)"
    assert page.evaluate("fetch('/api/workers').then(answer => answer.status)") == HTTPStatus.OK
    paths = (f"/api/worker/shutdown/{site.worker.hostname}", "/api/task/revoke/0", "/api/task/send-task/penstock.write_batch")
    assert [page.evaluate(post, path) for path in paths] == [HTTPStatus.FORBIDDEN] * 3
    assert site.worker.is_running


# -- without a browser ---------------------------------------------------------------------------------------------------------

#: What Flower answers to everybody: that it is there, its style sheets, and pages that say that there is nothing.
OPEN = ("/healthcheck", "/static/(.*)", "/login/?", "/logout", ".*")
#: Reads, though by POST.
READING = ("/tasks/datatable",)


def paths(method: str) -> list[str]:
    """Every address of Flower that has the method, but for the open ones."""
    specs = [handler if isinstance(handler, url) else url(*handler) for handler in handlers]
    patterns = {spec.regex.pattern.rstrip("$") for spec in specs if method in vars(spec.handler_class)}
    return sorted(pattern.replace("(.+)", "x").replace("(.*)", "x") for pattern in patterns - set(OPEN))


def test_nothing_is_told_or_done_without_the_login(site: Site) -> None:
    assert {"/", "/api/workers", "/metrics", "/worker/x"} <= set(paths("get"))
    answers = {path: site.ask(path, with_login=False)[0] for path in paths("get")}
    answers |= {f"POST {path}": site.ask(path, "POST", with_login=False)[0] for path in paths("post")}
    assert {path: status for path, status in answers.items() if status != HTTPStatus.UNAUTHORIZED} == {}
    assert site.ask("/healthcheck", with_login=False) == (HTTPStatus.OK, "OK")


@pytest.mark.parametrize("login", ["penstock:", "penstock:ü", ":", "", "\0"])
def test_a_wrong_login_is_refused_without_a_traceback(site: Site, login: str) -> None:
    """Whatever it is made of: to some, Flower's own comparison is an error."""
    before = site.flower.logs().count("Traceback")
    assert site.ask("/workers", login=login)[0] == HTTPStatus.UNAUTHORIZED
    assert site.flower.logs().count("Traceback") == before


def test_with_the_login_nothing_is_done_either(site: Site) -> None:
    controls = [path for path in paths("post") if path not in READING]
    assert len(controls) >= 10
    answers = {path: site.ask(path, "POST")[0] for path in controls}
    assert {path: status for path, status in answers.items() if status != HTTPStatus.FORBIDDEN} == {}


def test_no_page_and_no_log_has_a_password_or_what_events_say(site: Site) -> None:
    with site.witness.producer() as producer:
        site.witness.publish_one(producer, MARK)
        for event in (
            f'{{"type":"no.such","op":"upsert","version":1,"data":{{"text":"{MARK}"}}}}',
            f'{{"type":"translation.task","op":"upsert","version":1,"data":{{"task_id":"{MARK}","sequence":"{MARK}"}}}}',
        ):
            producer._outbox.accept(event.encode())
    until(lambda: set(site.witness.outcomes()) == {"stored", "held", "dead"})
    ids = until(lambda: list(json.loads(site.ask("/api/tasks?taskname=penstock.write_batch")[1])))
    data = "draw=1&start=0&length=1000&order[0][column]=0&columns[0][data]=name"
    pages = ["/", "/workers", "/workers?json=1", f"/worker/{site.worker.hostname}", "/tasks", "/broker", "/metrics"]
    pages += [f"/tasks/datatable?{data}", "/api/workers?refresh=1", "/api/tasks", "/api/task/types", "/api/queues/length"]
    pages += [f"{kind}/{id}" for id in ids for kind in ("/task", "/api/task/info")]
    told = {page: site.ask(page) for page in pages}
    assert {page: status for page, (status, _) in told.items() if status != HTTPStatus.OK} == {}

    texts = {page: text for page, (_, text) in told.items()}
    texts |= {"not there": site.ask("/nothing")[1], "result": site.ask(f"/api/task/result/{ids[0]}")[1]}
    assert "broker_url" in texts[f"/worker/{site.worker.hostname}"]  # the configuration is among what is looked through
    texts |= {"worker's log": site.worker.logs(), "flower's log": site.flower.logs().replace(f"Flower: {site.url}\n", "")}
    assert all(len(secret) > len(MARK) / 2 for secret in site.secrets)
    assert [page for page, text in texts.items() if any(secret in text for secret in (*site.secrets, MARK))] == []
    arguments = [word for process in site.flower.processes() for word in process.cmdline()]
    assert [word for word in arguments if site.secrets[0] in word] == []
