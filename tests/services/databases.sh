#!/usr/bin/env bash
# A private PostgreSQL and a private MariaDB, reachable from this machine only, each with a database
# "ase", a role "writer" that owns it and a role "reader" that may only select.
#   databases.sh start FOLDER       PostgreSQL on port 15432, MariaDB on port 13306
#   databases.sh grant FOLDER       lets "reader" select from the tables that "writer" made
#   databases.sh stop FOLDER
# Needs root and Debian's packages, which it installs; neither server runs as root.
set -euo pipefail
action=$1 folder=$2
binaries() { echo /usr/lib/postgresql/*/bin | tr ' ' '\n' | tail -1; }
postgres() { psql -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p 15432 -U postgres "$@"; }
mariadb_root() { mariadb --no-defaults -S "$folder/mariadb.run/socket" -u root "$@"; }

case $action in
grant)
  postgres -d ase -c 'grant select on all tables in schema public to reader'
  exit 0 ;;
stop)
  [ ! -s "$folder/postgres/postmaster.pid" ] ||
    kill -QUIT "$(head -1 "$folder/postgres/postmaster.pid")"
  [ ! -s "$folder/mariadb.run/pid" ] || kill "$(cat "$folder/mariadb.run/pid")"
  exit 0 ;;
esac

if ! command -v mariadbd >/dev/null || [ ! -d /usr/lib/postgresql ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    postgresql mariadb-server >/dev/null
fi
# the servers' own users have to reach their folders
parent=$folder
while [ "$parent" != / ]; do mkdir -p "$parent"; chmod o+x "$parent"; parent=$(dirname "$parent"); done
install -d -o postgres -g postgres -m 0700 "$folder/postgres" "$folder/postgres.run"
install -d -o mysql -g mysql -m 0755 "$folder/mariadb" "$folder/mariadb.run"

runuser -u postgres -- "$(binaries)/initdb" -D "$folder/postgres" -U postgres --no-sync \
  --auth-local=trust --auth-host=scram-sha-256 >/dev/null
sed -i '1i host all postgres 127.0.0.1/32 trust' "$folder/postgres/pg_hba.conf"
runuser -u postgres -- "$(binaries)/pg_ctl" -D "$folder/postgres" -s -w \
  -l "$folder/postgres.run/log" \
  -o "-c listen_addresses=127.0.0.1 -p 15432 -k $folder/postgres.run -c fsync=off" start
postgres -c "create role writer login password 'writer'" \
  -c "create role reader login password 'r/e@d:%2F'" -c 'create database ase owner writer'

mariadb-install-db --no-defaults --user=mysql --datadir="$folder/mariadb" --skip-test-db \
  --auth-root-authentication-method=normal >/dev/null
runuser -u mysql -- mariadbd --no-defaults --datadir="$folder/mariadb" --bind-address=127.0.0.1 \
  --port=13306 --socket="$folder/mariadb.run/socket" --pid-file="$folder/mariadb.run/pid" \
  >"$folder/mariadb.run/log" 2>&1 </dev/null &
for _ in $(seq 300); do
  mariadb_root -e 'select 1' >/dev/null 2>&1 && break
  sleep 0.1
done
mariadb_root -e "create database ase;
  create user writer@localhost identified by 'writer'; grant all on ase.* to writer@localhost;
  create user reader@localhost identified by 'r/e@d:%2F'; grant select on ase.* to reader@localhost"
