"""Every job there is, in the order in which lists show them."""

from __future__ import annotations

from penstock_worker.maintenance.adopt import adopt_spools
from penstock_worker.maintenance.audit import audit_ledger
from penstock_worker.maintenance.backup import make_backup
from penstock_worker.maintenance.disk import read_disk
from penstock_worker.maintenance.erasures import finish
from penstock_worker.maintenance.flush import flush_workers
from penstock_worker.maintenance.held import HeldLetters
from penstock_worker.maintenance.job import Job
from penstock_worker.maintenance.partitions import make_partitions
from penstock_worker.maintenance.recovery import RecoveryScan
from penstock_worker.maintenance.retention import purge
from penstock_worker.maintenance.vacuum import vacuum_tables
from penstock_worker.settings import Settings

__all__ = ["all_jobs"]

#: Seconds between two looks whether partitions must be made; they are made two months ahead.
PARTITIONS_EVERY_S = 3600
#: Seconds between two looks for children of erased rows that came before their parents.
ERASURES_EVERY_S = 60
#: When all tables are vacuumed, in UTC: the night to Sunday.
VACUUM_CRON = "30 3 * * 0"
#: When a backup is made, in UTC.
BACKUP_CRON = "0 2 * * *"


def all_jobs(settings: Settings) -> dict[str, Job]:
    """The jobs by name, as often as the settings say where the schedule says nothing else."""
    jobs = (
        Job(
            "flush",
            "make workers write what they hold",
            lambda work: flush_workers(work.settings, **work.arguments),
            every_s=settings.flush_every_s,
            takes=("timeout_s",),
        ),
        Job(
            "audit",
            "find gaps, fold the ledger, delete old parts of it",
            audit_ledger,
            every_s=settings.audit_every_s,
            deletes=True,
            takes=(),
        ),
        Job("partitions", "make the months ahead", make_partitions, every_s=PARTITIONS_EVERY_S, takes=()),
        Job(
            "adopt",
            "send what killed producers spooled",
            lambda work: adopt_spools(work.settings),
            every_s=settings.adopt_every_s,
            takes=(),
        ),
        Job("held", "replay held letters", HeldLetters().replay, every_s=settings.held_replay_every_s, takes=()),
        Job(
            "retention",
            "delete what is kept no longer",
            purge,
            every_s=settings.retention_every_s,
            deletes=True,
            takes=("all", "at_once"),
        ),
        Job("erasures", "end what erasures began", finish, every_s=ERASURES_EVERY_S, takes=()),
        Job("recovery", "find incomplete records", RecoveryScan().run, every_s=settings.recovery_every_s, takes=()),
        Job("disk", "read how large tables are, alarm", read_disk, every_s=settings.disk_every_s, takes=()),
        Job("vacuum", "vacuum what autovacuum has left", vacuum_tables, cron=VACUUM_CRON, takes=("tables",)),
        Job(
            "backup",
            "make a backup, remove old ones",
            make_backup,
            cron=BACKUP_CRON,
            deletes=True,
            takes=("folder", "format", "key_file"),
        ),
    )
    return {job.name: job for job in jobs}
