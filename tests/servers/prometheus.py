"""A private Prometheus with the rules and the intervals of deploy/, which scrapes what a test names."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from penstock_worker.stack.ports import LOOPBACK, find_free_port
from tests.servers.process import LocalProcess
from tests.watching import CONFIG, RULES

__all__ = ["PrometheusServer"]


class PrometheusServer(LocalProcess):
    """
    Args:
        targets: Ports on this host by the jobs of prometheus.yml; a job that is not named has none.
    """

    def __init__(self, program: str, folder: Path, targets: Mapping[str, Sequence[int]]) -> None:
        self._url = f"http://{LOOPBACK}:{(port := find_free_port())}"
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(_config(targets)))
        words = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={LOOPBACK}:{port}"]
        super().__init__(
            "prometheus", [program, *words], log=folder / "prometheus.log", cwd=folder, ready=lambda _: self._answers()
        )

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What it knows now: labels and value of each series."""
        asked = urllib.parse.urlencode({"query": expression})
        return [(each["metric"], float(each["value"][1])) for each in self._ask(f"/api/v1/query?{asked}")["result"]]

    def firing(self) -> dict[str, dict[str, Any]]:
        """The alerts that fire, by name; of several one."""
        alerts = self._ask("/api/v1/alerts")["alerts"]
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}

    def _ask(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self._url + path, timeout=60) as answer:
            return dict(json.load(answer)["data"])

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._url + "/-/ready", timeout=5):
                return True
        except OSError:
            return False


def _config(targets: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """That of deploy/, but for where its targets are."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["rule_files"] = [str(RULES)]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"{LOOPBACK}:{port}" for port in targets.get(job["job_name"], ())]}]
    assert targets.keys() <= {job["job_name"] for job in config["scrape_configs"]}
    return config
