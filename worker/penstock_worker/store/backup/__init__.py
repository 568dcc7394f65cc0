"""
Backups of a whole database: each a folder of its own, made under another name and renamed when it is whole.

    20261121-020000-3f2a/
        backup.json     the header, never encrypted: which backup, when, how large, the SHA-256 of every file
        dump.custom     what pg_dump wrote; or dump.sql.gz, plain SQL
        manifest.json   rows and a checksum of each table at the dump's snapshot, versions, roles
        schedule.json   the rows of penstock.schedule, to be read
        settings.json   the settings, without passwords, to be read

Encrypted, every file but the header ends in `.age`.

Reading order: `header`, `manifest`, `shelf` (the folder of backups), `seal` (encryption); `sums`, `dump`, `writing` make one;
`opened`, `load`, `scratch` bring it back, and `swap` puts it in place.
"""
