"""A row takes whatever comes last, not what is newest."""

from __future__ import annotations

from penstock_worker.store import upsert

upsert._NEWER = "true"
