# As postgres' own image: the first start makes user and database, by a server that answers no other machine.
set -eu
data=/var/lib/postgresql/data
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

install --directory --owner postgres --group postgres --mode 700 "$data"
if [ ! -s "$data/PG_VERSION" ]; then
  umask 077
  printf %s "$POSTGRES_PASSWORD" > /tmp/password
  chown postgres /tmp/password
  as_postgres initdb --username "$POSTGRES_USER" --pwfile /tmp/password --auth-host scram-sha-256 --auth-local trust --pgdata "$data"
  rm /tmp/password
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
  as_postgres pg_ctl --pgdata "$data" --options "-c listen_addresses=''" --wait start
  as_postgres createdb --username "$POSTGRES_USER" --maintenance-db postgres "$POSTGRES_DB"
  as_postgres pg_ctl --pgdata "$data" --mode fast --wait stop
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups postgres -D "$data" -c listen_addresses='*'
