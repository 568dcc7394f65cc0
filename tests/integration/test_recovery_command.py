"""`penstock recovery`, as a person or a script uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from subprocess import CompletedProcess
from uuid import uuid4

import pytest

from tests.commands import penstock_here
from tests.recovering import SESSION, Ward, minutes
from tests.replaying import VERSION


@pytest.fixture
def ward(database_url: str, valkey_url: str) -> Iterator[Ward]:
    """A session with two tasks that was found incomplete, and one that has ended since."""
    ward = Ward(database_url, valkey_url)
    for name in ("s1", "s2"):
        ward.session(name)
    ward.task("t1", "s1", "completed")
    ward.task("t2", "s1")
    ward.scan(minutes(31))
    ward.session("s2", "completed", VERSION + 1)
    ward.scan(minutes(31.5))
    yield ward
    ward.close()


def recovery(ward: Ward, *words: str) -> CompletedProcess[str]:
    urls = {"PENSTOCK_DATABASE_URL": ward.settings.database, "PENSTOCK_BROKER_URL": ward.settings.broker}
    return penstock_here("recovery", *words, **urls)


def test_what_is_incomplete_is_listed_and_shown(ward: Ward) -> None:
    (found,) = json.loads(recovery(ward, "list", "--json").stdout)["recoveries"]
    assert (found["type"], found["key"], found["state"], found["offers"]) == (SESSION, ["s1"], "running", 1)
    everything = json.loads(recovery(ward, "list", "--json", "--all").stdout)["recoveries"]
    assert [(one["key"], one["outcome"]) for one in everything] == [(["s1"], None), (["s2"], "completed")]
    assert json.loads(recovery(ward, "show", str(found["id"]), "--json").stdout) == found
    assert "s1" in recovery(ward, "list").stdout
    assert "key            s1\n" in recovery(ward, "show", str(found["id"])).stdout
    assert recovery(ward, "list", "--type", "guardian.session").stdout == "nothing is incomplete\n"


def test_one_is_claimed_restored_and_resolved(ward: Ward) -> None:
    found = str(ward.open()[0].id)
    taken = json.loads(recovery(ward, "claim", found, "--by", "me", "--for", "300", "--json").stdout)
    assert (taken["key"], taken["claimed_by"]) == (["s1"], "me")
    other = recovery(ward, "claim", found, "--by", "you")
    assert (other.returncode, other.stderr.startswith(f"penstock: recovery {found} is me's until ")) == (1, True)
    longer = json.loads(recovery(ward, "claim", found, "--by", "me", "--claim", taken["claim"], "--json").stdout)
    assert (longer["claim"], longer["claimed_until"] > taken["claimed_until"]) == (taken["claim"], True)

    restored = json.loads(recovery(ward, "restore", found).stdout)

    assert restored == json.loads(recovery(ward, "restore", SESSION, "s1", "--json").stdout)
    assert (restored["type"], restored["record"]["session_id"]) == (SESSION, "s1")
    states = [(task["task_id"], task["status"]) for task in restored["children"]["translation.task"]]
    assert states == [("t1", "completed"), ("t2", "running")]

    assert recovery(ward, "resolve", found).stderr == "penstock: give the --claim that you hold, or --force\n"
    assert recovery(ward, "resolve", found, "--claim", str(uuid4())).returncode == 1
    ended = json.loads(recovery(ward, "resolve", found, "--claim", taken["claim"], "--as", "resumed", "--json").stdout)
    assert (ended["outcome"], ended["ended_by"]) == ("resumed", "me")
    assert "outcome        resumed" in recovery(ward, "resolve", found, "--force").stdout, "the first one's word"


def test_one_is_given_back(ward: Ward) -> None:
    found = str(ward.open()[0].id)
    said = recovery(ward, "claim", found, "--by", "me").stdout
    assert said.startswith("translation.session s1 is yours until ")
    assert json.loads(recovery(ward, "release", found, "--claim", said.split()[-1], "--json").stdout)["claimed_by"] is None
    assert recovery(ward, "claim", found, "--by", "you").returncode == 0
    assert recovery(ward, "release", found, "--force").returncode == 0


def test_a_session_may_have_no_tasks(ward: Ward) -> None:
    assert json.loads(recovery(ward, "restore", SESSION, "s2").stdout)["children"] == {}


def test_mistakes_are_one_line(ward: Ward) -> None:
    for words, told in (
        (["show", "4711"], "there is no recovery 4711: `penstock recovery list --all` shows those that are kept"),
        (["restore", SESSION, "nobody"], "there is no translation.session nobody, or it was deleted"),
        (["restore", SESSION], "the key of translation.session is session_id: give 1, not 0"),
        (["restore", "nobody", "s1"], "there is no type 'nobody'; "),
        (["list", "--type", "translation.sesion"], "'translation.sesion' is no type with a lifecycle; there are "),
    ):
        done = recovery(ward, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"penstock: {told}")
    endless = recovery(ward, "claim", "1", "--by", "me", "--for", "inf")
    assert (endless.returncode, "Invalid value for '--for'" in endless.stderr) == (2, True)


def test_a_scan_by_hand_says_what_it_waits_for(ward: Ward) -> None:
    done = json.loads(recovery(ward, "scan", "--json").stdout)
    assert (done["state"], list(done["counts"]["waits"])) == ("done", ["no worker answers"])


def test_a_trace_tells_whose_word_interrupted_is(ward: Ward) -> None:
    ward.scan(minutes(60 * 25))
    urls = {"PENSTOCK_DATABASE_URL": ward.settings.database, "PENSTOCK_BROKER_URL": ward.settings.broker}
    told = json.loads(penstock_here("trace", SESSION, "s1", "--json", **urls).stdout)
    assert "status" in told["row"]["columns_of"]["recovery"]
