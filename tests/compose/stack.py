"""One stack of deploy/compose.yml: in a folder of its own, with names, secrets, volumes and a port that nobody else has."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from penstock_worker.stack.ports import find_free_port
from tests.compose.command import CommandError, run

__all__ = ["Stack"]

_DEPLOY = Path(__file__).parents[2] / "deploy"
_LEFT_ALONE = shutil.ignore_patterns("files", ".env", "kubernetes", "systemd")
#: The broker that a service with a producer is told; as in deploy/*.env.
_BROKERS = {"redis": "redis://publisher@valkey:6379/0", "rabbitmq": "amqp://publisher@rabbitmq:5672/penstock"}
#: Gates that end before the others start.
_JOBS = {"migrate", "broker-ready"}


class Stack:
    """
    A stack, not up yet.

    Args:
        broker: The profile.
        compose: The words of compose.
        images: Variables of compose.yml and the images for them.
        folder: An empty one.
    """

    def __init__(self, broker: str, compose: Sequence[str], images: Mapping[str, str], folder: Path) -> None:
        self.name = f"penstock-test-{uuid4().hex[:8]}"
        self.flower_port = find_free_port()
        self.folder = folder / "deploy"
        self.image = images["PENSTOCK_IMAGE"]
        self._broker = broker
        shutil.copytree(_DEPLOY, self.folder, ignore=_LEFT_ALONE)
        self._write_settings(images)
        run(["sh", "secrets/make-secrets"], cwd=self.folder)
        self._compose = [*compose, "--project-name", self.name]

    @property
    def events_network(self) -> str:
        return f"{self.name}-events"

    @property
    def broker_url(self) -> str:
        """Of a service with a producer, without its password."""
        return _BROKERS[self._broker]

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / "files" / name).read_text()

    def secrets(self) -> dict[str, str]:
        """Every password by its name; files that are made of them are left out."""
        names = [file.name for file in (self.folder / "secrets" / "files").iterdir()]
        return {name: self.secret(name) for name in names if name.endswith(("password", "login"))}

    def compose(self, *words: str, within_s: float = 900) -> str:
        return run([*self._compose, *words], cwd=self.folder, within_s=within_s)

    def up(self, *, workers: int = 1) -> None:
        """Start what is not running, and wait until all of it is healthy."""
        self.compose("up", "--detach", "--scale", f"worker={workers}")
        self.wait_for("all containers are healthy", lambda: not self.unhealthy())

    def down(self) -> None:
        """End it, and all that it has stored."""
        self.compose("down", "--volumes", "--remove-orphans")

    def inspect(self) -> dict[str, dict[str, Any]]:
        """What the engine says of every container of the stack, ended ones too, by its name without the project's."""
        found = run(["docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.name}"]).split()
        containers = json.loads(run(["docker", "inspect", *found])) if found else []
        return {container["Name"].removeprefix(f"/{self.name}").strip("-_"): container for container in containers}

    def services(self) -> dict[str, dict[str, Any]]:
        """Those that stay: without the jobs that end before."""
        return {name: found for name, found in self.inspect().items() if service_of(found) not in _JOBS}

    def containers_of(self, service: str) -> list[str]:
        """Their ids, those that run."""
        labels = {"com.docker.compose.project": self.name, "com.docker.compose.service": service}
        filters = [word for label, value in labels.items() for word in ("--filter", f"label={label}={value}")]
        return run(["docker", "ps", "--quiet", *filters]).split()

    def unhealthy(self) -> list[str]:
        """Those that do not run, or do not say that they are well."""
        states = {name: found["State"] for name, found in self.services().items()}
        return [name for name, state in states.items() if state.get("Health", {}).get("Status", state["Status"]) != "healthy"]

    def execute(self, service: str, *words: str, check: bool = True) -> str:
        """Run a command in the first container of a service."""
        return run(["docker", "exec", self.containers_of(service)[0], *words], check=check)

    def rows(self, query: str) -> list[str]:
        """What PostgreSQL answers its superuser, a line for each row."""
        words = ["psql", "--username", "postgres", "--dbname", "penstock", "--no-align", "--tuples-only", "--command", query]
        return self.execute("postgres", *words).splitlines()

    def client(self, *words: str, interactive: bool = False) -> list[str]:
        """A container of a service with a producer: on the broker's network only, hardened like the others."""
        password = self.folder / "secrets" / "files" / "broker_publisher_password"
        command = [
            "docker",
            "run",
            "--rm",
            "--network",
            self.events_network,
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--cap-drop",
            "ALL",
        ]
        command += ["--interactive"] if interactive else []
        command += [
            "--volume",
            f"{password}:/run/secrets/password:ro",
            "--env",
            "PENSTOCK_BROKER_PASSWORD_FILE=/run/secrets/password",
        ]
        return [*command, "--env", f"PENSTOCK_BROKER_URL={self.broker_url}", *words]

    def wait_for(self, what: str, is_so: Callable[[], bool], within_s: float = 300) -> float:
        """
        Ask until it is so; returns after how many seconds.

        Raises:
            AssertionError: It is not so in time; the text has what the containers logged.
        """
        began = time.monotonic()
        while not is_so():
            if time.monotonic() - began > within_s:
                raise AssertionError(f"{what}: not within {within_s:.0f} s\n{self.story()}")
            time.sleep(0.5)
        return time.monotonic() - began

    def story(self) -> str:
        """The states of the containers and the end of what they logged."""
        lines = [
            f"{name}: {json.dumps(found['State'].get('Health') or found['State'])[-600:]}"
            for name, found in self.inspect().items()
        ]
        try:
            lines.append(self.compose("logs", "--no-color", "--tail", "15"))
        except (CommandError, subprocess.TimeoutExpired) as exc:
            lines.append(str(exc))
        return "\n".join(lines)

    def _write_settings(self, images: Mapping[str, str]) -> None:
        settings = dict(
            line.split("=", 1) for line in (self.folder / f"{self._broker}.env").read_text().splitlines() if _is_set(line)
        )
        settings |= images
        settings |= {
            # No image of Grafana can be made here.
            "COMPOSE_PROFILES": self._broker,
            "COMPOSE_PROJECT_NAME": self.name,
            "EVENTS_NETWORK": self.events_network,
            "SPOOL_VOLUME": f"{self.name}-spool",
            "FLOWER_PORT": str(self.flower_port),
        }
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def service_of(container: Mapping[str, Any]) -> str:
    """The name of compose.yml."""
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def _is_set(line: str) -> bool:
    return "=" in line and not line.startswith("#")
