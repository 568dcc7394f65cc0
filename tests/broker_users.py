"""The users of deploy/redis/users.acl and deploy/rabbitmq/definitions.json on the tests' own brokers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import redis

from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer

__all__ = ["USERS", "acl_lines", "definitions", "let_in", "send_away"]

_DEPLOY = Path(__file__).parents[1] / "deploy"
USERS = ("publisher", "worker", "monitor")


def filled(path: Path) -> str:
    """A template, everybody's password being their name."""
    return re.sub(r"@(\w+)_password@", r"\1", path.read_text())


def acl_lines() -> list[str]:
    """The users of Redis, without the one that is switched off."""
    lines = [line for line in filled(_DEPLOY / "redis" / "users.acl").splitlines() if line and not line.startswith("#")]
    assert lines.pop(0) == "user default off"
    return lines


def definitions() -> Any:
    """The users, rights, queues and exchanges of RabbitMQ."""
    return json.loads(filled(_DEPLOY / "rabbitmq" / "definitions.json"))


def let_in(server: ValkeyServer | RabbitServer, url: str) -> dict[str, str]:
    """Make the users, on RabbitMQ for the virtual host of this URL alone; each one's URL by name."""
    if isinstance(server, ValkeyServer):
        with redis.Redis.from_url(url) as client:
            for line in acl_lines():
                client.execute_command("ACL", "SETUSER", *_words(line))
    else:
        host = url.rpartition("/")[2]
        content = json.dumps(definitions()).replace('"vhost": "penstock"', f'"vhost": "{host}"')
        server.call("POST", "/api/definitions", json.loads(content) | {"vhosts": []})
    return {user: re.sub(r"//[^@]*@", f"//{user}:{user}@", url) for user in USERS}


def send_away(server: ValkeyServer | RabbitServer, url: str) -> None:
    """Forget them: the server is the session's."""
    if isinstance(server, ValkeyServer):
        with redis.Redis.from_url(url) as client:
            client.execute_command("ACL", "DELUSER", *USERS)
    else:
        for user in USERS:
            server.call("DELETE", f"/api/users/{user}")


def _words(line: str) -> list[str]:
    """What stands in parentheses is one word."""
    return [word for word in re.findall(r"\([^)]*\)|\S+", line) if word != "user"]
