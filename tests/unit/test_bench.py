"""The bench's own arithmetic: a wrong median or a wrong model would be believed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from bench import everything
from bench.everything import ON_DEMAND, plan
from bench.figures import alternate, digest_of, median, percentile, rates, rotated, spread
from bench.goals import GOALS, judged
from bench.model import Line, Sample, fit
from bench.peers import comparison, environments
from bench.peers.comparison import PEERS, THE_REST
from bench.peers.environments import Unavailable, node_environment
from bench.phases import Phases
from bench.records import build_records
from bench.report import markdown, table, write_report
from bench.service import in_bursts, without_pause
from bench.table import split_lines
from bench.workload import build_corrections, build_small, build_updates, build_workload, copies

ABOUT = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "versions": {"python": "3.11", "broker": "valkey 9"},
    "cores": 2,
    "load_at_start": 0.1,
}
DRAIN = ABOUT | {
    "name": "drain",
    "broker": "redis",
    "events": 1000,
    "rounds": 3,
    "events_per_s": 60_000,
    "copy_rows_per_s": 100_000,
    "ratio": 0.6,
    "spread": {"events_per_s": [59_000, 61_000], "copy_rows_per_s": [99_000, 101_000], "ratio": [0.58, 0.62]},
    "rows": 1000,
    "bytes_per_row": 530,
    "indexes": ["a", "b"],
    "conflict_ratio": 0.0,
}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 50, 7),
        ([3, 1, 2], 50, 2),
        ([1, 2, 3, 4], 50, 2),
        (range(1, 101), 99, 99),
        (range(1, 102), 99, 100),
        ([1, 2], 0, 1),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(values, percent, expected):
    assert percentile(list(values), percent) == expected


def test_medians_and_spreads_of_rounds():
    per_round = rates(1000, [0.5, 0.1, 0.2])

    assert per_round == [2000, 10_000, 5000]
    assert (median(per_round), spread(per_round), spread([0.1234, 0.5678], 3)) == (5000, [2000, 10_000], [0.123, 0.568])


def test_every_round_is_begun_by_another_contender():
    turns: list[str] = []
    clock = iter(range(100))

    def contender(name):
        def run():
            turns.append(name)
            return float(next(clock))

        return run

    measured = alternate({name: contender(name) for name in "abc"}, 4)

    assert "".join(turns) == "abcbcacababc"
    assert measured == {"a": [0, 5, 7, 9], "b": [1, 3, 8, 10], "c": [2, 4, 6, 11]}
    assert list(rotated(["x", "y"], 3)) == ["y", "x"]


def test_a_digest_knows_no_order_and_every_row():
    md5s = [hashlib.md5(text).hexdigest() for text in (b"one", b"two", b"three")]

    assert digest_of(md5s) == digest_of(md5s[::-1])
    assert digest_of(md5s) not in (digest_of(md5s[:2]), digest_of([*md5s, md5s[0]]))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_lines_are_split_where_they_end(parts):
    lines = b"".join(b"%d\tvalue\\nwith a newline\n" % number for number in range(100))

    split = [bytes(part) for part in split_lines(lines, parts)]

    assert b"".join(split) == lines
    assert len(split) == parts
    assert all(part.endswith(b"\n") and len(part) > len(lines) / parts / 2 for part in split)


def test_a_model_of_costs_that_are_a_line_is_exact():
    """10 us of main process and so on with one worker, 2 us more of PostgreSQL for every doubling; 80 % of two cores used."""
    costs = {1: 100.0, 2: 102.0, 4: 104.0}
    samples = [
        Sample(workers, 0.8 * 2e6 / us, {"main": 10, "children": 60, "postgres": us - 75, "broker": 5})
        for workers, us in costs.items()
    ]

    model = fit(samples, cores=2, children=2)

    assert model.used == pytest.approx(0.8)
    assert model.parts["postgres"] == Line(pytest.approx(25), pytest.approx(2), 4)
    assert [model.error(sample, 2) for sample in samples] == pytest.approx([0, 0, 0])
    assert model.together(1024, 2) == pytest.approx(1.6e6 / 120)


def test_apart_the_part_that_is_used_up_limits():
    samples = [Sample(workers, 16_000, {"main": 10, "children": 75, "postgres": 25, "broker": 5}) for workers in (1, 2)]

    model = fit(samples, cores=2, children=2)

    assert model.apart(1, 16) == (pytest.approx(20_000), "children")  # 2 children, 75 us and 25 us of waiting
    assert model.apart(100, 2) == (pytest.approx(80_000), "postgres")
    assert model.apart(100, 64) == (pytest.approx(200_000), "broker")


def test_savings_are_not_drawn_out():
    """Batches may fill better with more workers; that they do so for ever is not assumed."""
    line = Line(100, -10, measured_to=4)

    assert [line.at(workers) for workers in (1, 2, 4, 1000)] == [100, 90, 80, 80]


def test_one_number_of_workers_makes_a_flat_model():
    assert fit([Sample(1, 1000, dict.fromkeys(("main", "children", "postgres", "broker"), 5.0))], 2, 2).parts["main"].at(8) == 5


def test_goals_are_judged():
    assert judged({"name": "drain", "broker": "redis", "ratio": 0.65}) == [
        {"goal": "ratio >= 0.65", "value": 0.65, "reached": True}
    ]
    assert [goal["reached"] for goal in judged({"name": "latency", "p50_ms": 81, "p99_ms": 250})] == [False, True]
    assert judged({"name": "small", "broker": "rabbitmq", "events_per_s": 9_999})[0]["reached"] is False
    assert judged({"name": "peers", "times": {"celery_tasks": 101}})[2] == {
        "goal": "times.best_of_the_rest >= 3",
        "value": None,
        "reached": None,
    }
    assert judged({"name": "limit"}) == []


def test_every_name_of_the_issue_is_a_bench():
    from bench.__main__ import BENCHES, parse

    of_the_issue = "limit drain live update partial append small publish latency memory growth scale pressure peers retention"
    assert list(BENCHES) == [*of_the_issue.split(), *ON_DEMAND]
    assert {name.partition("/")[0] for name in GOALS} <= BENCHES.keys()
    chosen = parse(["growth", "--sizes", "10", "20", "--json"])
    assert (chosen.sizes, chosen.rounds, chosen.broker, chosen.as_json) == ([10, 20], 3, "redis", True)
    assert plan(["limit", "drain"]) == [("limit", "redis"), ("drain", "redis"), ("drain", "rabbitmq")]


def test_a_bench_that_fails_is_told_and_the_rest_goes_on(monkeypatch, tmp_path: Path):
    asked = []

    def ended(command):
        asked.append(command[3:])
        if "growth" in command:
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nvoid: 1 row of 2")
        return subprocess.CompletedProcess(command, 0, f"{json.dumps(DRAIN | {'goals': judged(DRAIN)})}\n", "")

    monkeypatch.setattr(everything, "_ended", ended)

    code = everything.run(["drain", "growth"], Namespace(only=None, events=20, rounds=1, folder=tmp_path))

    assert code == 1
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [(result["name"], result.get("failed")) for result in results] == [
        ("drain", None),
        ("drain", None),
        ("growth", "void: 1 row of 2"),
    ]
    assert "| growth, redis | void: 1 row of 2 |" in (tmp_path / "RESULTS.md").read_text()
    small = "--json --events 20 --rounds 1"
    assert [" ".join(command) for command in asked] == [
        f"drain --broker redis {small}",
        f"drain --broker rabbitmq {small}",
        f"growth --broker redis {small} --sizes 1000 10000",
    ]


def test_a_bench_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(everything, "_LIMIT_S", 0.1)

    done = everything._ended([sys.executable, "-c", "import signal\nwhile True: signal.pause()"])

    assert (done.returncode, done.stderr) == (1, "did not end within 0 s")


def test_where_the_time_goes_is_added_up_and_told():
    phases = Phases({"draining": 2.04, "comparing": 3.0})

    with pytest.raises(ValueError, match="void"), phases.of("draining"):
        raise ValueError("void")

    assert phases.seconds["draining"] > 2.04
    assert list(phases.told()) == ["comparing", "draining"]


@pytest.mark.parametrize("how", [in_bursts, without_pause])
def test_a_service_publishes_each_record_once_and_tells_every_duration(how):
    _, records = build_records(103)
    published = []

    class Noting:
        def publish(self, record):
            published.append(record.task_id)

    told = how(Noting(), records, {"threads": 4, "burst": 10, "per_s": 1_000_000})

    assert sorted(published) == sorted(record.task_id for record in records)
    assert len(told["ns"]) == 103


def test_copies_are_other_keys_with_the_same_content():
    load = build_workload(600)

    made = list(copies(load.tasks, 3))

    events = [event["data"] for message in made for event in json.loads(message.body)["events"]]
    assert len({event["task_id"] for event in events}) == len(events) == 1800
    assert all(event["task_id"].startswith(event["session_id"] + ":") for event in events)
    assert len({event["source_text"] for event in events}) <= 600
    epochs = [json.loads(message.body)["epoch"] for message in made]
    assert epochs == [message.headers["epoch"] for message in made]
    assert len(set(epochs)) == 3


def test_workloads_are_the_same_every_time_and_say_how_rows_end():
    new, newer, corrected = build_workload(10), build_updates(10), build_corrections(10)

    assert new.checksum == build_workload(10).checksum != newer.checksum == corrected.checksum
    data = [event["data"] for message in corrected.tasks for event in json.loads(message.body)["events"]]
    assert {frozenset(event) for event in data} == {
        frozenset({"task_id", "session_id", "translated_text", "tokens", "retry_count"})
    }
    small = build_small(10)
    assert [json.loads(message.body)["id"] for message in small.cloudevents] == [str(number) for number in range(10)]
    assert [message.headers["count"] for message in small.envelopes] == [1] * 10


def test_a_report_tells_goals_and_what_was_not_measured():
    failed = {"name": "live", "broker": "rabbitmq", "failed": "rabbitmq-server is not installed"}
    told = {"at": "2026-11-21T12:00:00+00:00", "minutes": 1.5, "results": [DRAIN | {"goals": judged(DRAIN)}, failed]}

    page = markdown(told)

    assert "| drain | redis | ratio >= 0.65 | 0.6 | **not reached** |" in page
    assert "| drain | redis | 1,000 | 60,000 [59,000, 61,000] | 100,000 [99,000, 101,000] | 0.6 [0.58, 0.62] |" in page
    assert "| live, rabbitmq | rabbitmq-server is not installed |" in page
    assert "## Peers" not in page
    assert table(["a"], [[1]]) == "| a |\n| --- |\n| 1 |"


def test_charts_are_drawn_of_what_was_measured(tmp_path: Path):
    sizes = [{"rows": 10, "us_per_event": 9.0, "table_mb": 1, "indexes_mb": 1, "events_per_s": 1, "spread": [1, 1]}] * 2
    growth = ABOUT | {"name": "growth", "broker": "redis", "goals": [], "sizes": sizes}

    write_report({"at": "2026-11-21", "minutes": 1, "results": [DRAIN | {"goals": judged(DRAIN)}, growth]}, tmp_path)

    assert sorted(file.name for file in (tmp_path / "charts").iterdir()) == ["growth.png", "rates.png"]
    assert "![growth](charts/growth.png)" in (tmp_path / "RESULTS.md").read_text()


def test_a_peer_without_its_environment_is_skipped_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "_FOLDER", tmp_path)
    monkeypatch.setattr(environments.shutil, "which", lambda _name: None)

    with pytest.raises(Unavailable, match="no node"):
        node_environment("bullmq", ["bullmq@1"])
    with pytest.raises(Unavailable, match=r"python failed: .*nothing"):
        environments._run([sys.executable, "-m", "pip", "install", "--no-index", "--quiet", str(tmp_path / "nothing")])


def test_every_peer_is_there_and_has_its_place_in_the_goals():
    compared = {goal.field.partition(".")[2] for goal in GOALS["peers"]}

    assert [name for name, peer in PEERS.items() if not (Path(comparison.__file__).parent / peer.file).exists()] == []
    assert compared == (PEERS.keys() - set(THE_REST)) | {"best_of_the_rest"}
