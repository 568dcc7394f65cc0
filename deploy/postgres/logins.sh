#!/bin/sh
# Runs once, when the database is made: who logs in, as a member of the role whose rights he needs. `penstock migrate up` says
# what the roles may do.
set -eu

password() {
    cat "/run/secrets/database_$1_password"
}

psql -v ON_ERROR_STOP=1 --quiet --no-password --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    -v database="$POSTGRES_DB" -v ingest="$(password ingest)" -v reader="$(password reader)" -v keeper="$(password keeper)" <<'SQL'
CREATE ROLE penstock_ingest NOLOGIN;
CREATE ROLE penstock_read NOLOGIN;
CREATE ROLE penstock_admin NOLOGIN;
CREATE ROLE ingest LOGIN PASSWORD :'ingest' IN ROLE penstock_ingest;
CREATE ROLE reader LOGIN PASSWORD :'reader' IN ROLE penstock_read, pg_read_all_stats;
-- Backups are tried, and restored, by way of a new database; and who reads the old one is sent away then.
CREATE ROLE keeper LOGIN CREATEDB PASSWORD :'keeper' IN ROLE penstock_admin, pg_signal_backend;
ALTER DATABASE :"database" OWNER TO penstock_admin;
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO ingest, reader, keeper;
SQL
