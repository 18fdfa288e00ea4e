# shellcheck shell=bash
#
# The private PostgreSQL and RabbitMQ of `deploy/local.sh`, which sources this: installing, starting,
# finding and stopping them. What runs is always asked of /proc, never of a pid file that can be stale.

# --- Packages -----------------------------------------------------------------------------------

find_programs() {
  local dir
  PG_BIN='' RABBITMQ_BIN=''
  # The version that made the data first, then the newest.
  for dir in "/usr/lib/postgresql/$(cat "$STATE/servers/postgres/PG_VERSION" 2>/dev/null || true)/bin" \
    $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) "$(dirname "$(command -v initdb || true)")"; do
    [[ -x $dir/initdb && $("$dir/postgres" -V) =~ [0-9]+ ]] || continue
    ((BASH_REMATCH[0] >= 15)) || continue
    PG_BIN=$dir
    break
  done
  for dir in /usr/lib/rabbitmq/bin "$(dirname "$(command -v rabbitmq-server || true)")"; do
    [[ -x $dir/rabbitmq-server ]] || continue
    RABBITMQ_BIN=$dir
    break
  done
}

# Runs as root. The packages' own services are neither started now nor at the next boot, and no
# default cluster is made; whatever was on the machine before is left as it was.
install_packages() (
  set -euo pipefail
  exec 8>/run/lock/token-billing-install.lock
  flock 8
  policy=/usr/sbin/policy-rc.d kept=$policy.before-token-billing
  cluster=/etc/postgresql-common/createcluster.d/token-billing.conf
  # shellcheck disable=SC2317  # called by the trap
  restore() {
    rm -f "$cluster" "$policy"
    rmdir --ignore-fail-on-non-empty "${cluster%/*}"
    if [[ -e $kept || -L $kept ]]; then mv -f "$kept" "$policy"; fi
  }
  # One that carries our name is left over from a run that was killed.
  if [[ -e $policy || -L $policy ]] && ! grep -qs token-billing "$policy"; then mv -f "$policy" "$kept"; fi
  trap restore EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\n# token-billing installs packages\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  mkdir -p "${cluster%/*}"
  echo 'create_main_cluster = false' >"$cluster"

  units=()
  for package; do units+=("$package.service"); done
  dpkg-query -W erlang-base >/dev/null 2>&1 || units+=(epmd.service epmd.socket)
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
  apt=(apt-get -qq -o DPkg::Lock::Timeout=120)
  install=("${apt[@]}" install -y --no-install-recommends --no-upgrade "$@")
  output=$("${install[@]}" 2>&1 || { "${apt[@]}" update && "${install[@]}"; } 2>&1) || { echo "$output"; exit 1; }
  if command -v systemctl >/dev/null; then systemctl disable --quiet "${units[@]}" 2>/dev/null || true; fi
) >&2

install_missing() { # PACKAGE…
  command -v apt-get >/dev/null || die "install with your system's package manager: $*"
  say "Installing $* from the distribution (services stay off) …"
  if ((EUID == 0)); then install_packages "$@"
  elif sudo -n true 2>/dev/null; then
    sudo -n bash -c "$(declare -f install_packages); install_packages $*"
  else
    die "not allowed to install packages; try again after: sudo apt-get install --no-install-recommends $*"
  fi
}

ensure_programs() {
  local missing=()
  find_programs
  [[ -n $PG_BIN ]] || missing+=(postgresql)
  [[ -n $RABBITMQ_BIN ]] || missing+=(rabbitmq-server)
  ((${#missing[@]})) || return 0
  install_missing "${missing[@]}"
  find_programs
  [[ -n $PG_BIN ]] || die 'the distribution has no PostgreSQL 15 or newer: see https://www.postgresql.org/download/'
  [[ -n $RABBITMQ_BIN ]] || die 'no rabbitmq-server after the installation: see the output above'
}

# --- Directories, ports, settings ---------------------------------------------------------------

# PostgreSQL refuses to run as root, so root runs both servers under an account without rights.
server_user() { id -un postgres 2>/dev/null || echo nobody; }

as_server() {
  local become=()
  if ((EUID == 0)); then
    become=(setpriv --reuid "$(server_user)" --regid "$(id -g "$(server_user)")" --init-groups)
  fi
  env -i -C / PATH="$PATH" LANG=C.UTF-8 HOME="$DATA/rabbitmq" "${become[@]}" "$@"
}

server_dir() {
  [[ -d $1 ]] || mkdir -m 700 "$1"
  if ((EUID == 0)); then chown "$(server_user):" "$1"; fi
}

# One run at a time; the loop is for a directory that was purged while this run waited.
lock() {
  while :; do
    mkdir -p "$STATE"
    exec 9>"$STATE/lock"
    flock -w 180 9 || die "another run holds $STATE/lock"
    [[ $STATE/lock -ef /dev/fd/9 ]] && return 0
  done
}

unlock() { exec 9>&-; }

# Under $STATE, unless the servers' account can't get there (a checkout in a home of mode 700) or
# their start scripts can't take its name (spaces): then under /var/tmp, with a link in $STATE.
locate_data() { # [create]
  local link=$STATE/servers away
  if [[ ! -d $link ]]; then
    [[ ${1:-} == create ]] || return 1
    rm -f "$link"
    if [[ $STATE =~ ^[[:alnum:]/._+@=-]+$ ]] && as_server test -x "$STATE"; then
      mkdir -m 711 "$link"
    else
      away=/var/tmp/token-billing-$(sha256sum <<<"$STATE" | cut -c1-12)
      mkdir -m 711 "$away" 2>/dev/null || [[ -d $away && ! -L $away && -O $away ]] ||
        die "$away belongs to someone else"
      ln -s "$away" "$link"
    fi
  fi
  DATA=$(readlink -f "$link")
}

load_settings() {
  POSTGRES_PORT='' AMQP_PORT='' DIST_PORT='' EPMD_PORT='' PASSWORD='' NODE=''
  # shellcheck source=/dev/null
  [[ -f $DATA/settings ]] && . "$DATA/settings"
}

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; } # BYTES

new_settings() {
  PASSWORD=$(random_hex 16)
  # Random of its own: epmd and `ps` tell every user of the machine what a node is called.
  NODE=token-billing-$(random_hex 4)@localhost
}

save_settings() (
  umask 077
  local name
  for name in POSTGRES_PORT AMQP_PORT DIST_PORT EPMD_PORT PASSWORD NODE; do
    printf '%s=%q\n' "$name" "${!name}"
  done >"$DATA/settings.new"
  mv "$DATA/settings.new" "$DATA/settings"
)

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

silent() { ! listening "$1"; }

# Keeps the port of last time unless somebody else has taken it since. Below the range that outgoing
# connections use; one residue for each server, so that no two of a directory can meet.
claim_port() { # NAME RESIDUE
  while [[ -z ${!1} ]] || listening "${!1}"; do
    printf -v "$1" %d $((20000 + RANDOM % 3000 * 4 + $2))
  done
}

need_servers() {
  find_programs
  if ! { locate_data && load_settings; }; then die "no servers in $STATE yet: deploy/local.sh up"; fi
}

# --- PostgreSQL ---------------------------------------------------------------------------------

# Full durability, as in production: a benchmark on these must be honest.
POSTGRES_SETTINGS=(
  listen_addresses=127.0.0.1 unix_socket_directories=
  fsync=on synchronous_commit=on full_page_writes=on
  recovery_init_sync_method=syncfs # after a crash: one call rather than one for each of many files
  shared_buffers=256MB max_wal_size=4GB max_connections=200
  timezone=UTC log_timezone=UTC 'log_line_prefix=%m [%p] %q%a@%d '
)

psql_here() {
  PGHOST=127.0.0.1 PGPORT=$POSTGRES_PORT PGUSER=token_billing PGPASSWORD=$PASSWORD PGDATABASE=token_billing \
    "$PG_BIN/psql" "$@"
}

# By working directory and program: right even where a pid file is stale.
postgres_pids() {
  local process
  for process in /proc/[0-9]*; do
    if [[ $process/cwd -ef $DATA/postgres && $process/exe -ef $PG_BIN/postgres ]]; then
      echo "${process#/proc/}"
    fi
  done
}

postmaster_pid() {
  local pid
  { read -r pid <"$DATA/postgres/postmaster.pid"; } 2>/dev/null &&
    [[ /proc/$pid/cwd -ef $DATA/postgres ]] && echo "$pid"
}

postgres_ready() {
  postmaster_pid >/dev/null && "$PG_BIN/pg_isready" -q -h 127.0.0.1 -p "$POSTGRES_PORT" -t 5
}

# In a directory of its own first: one that is there is complete.
init_postgres() {
  local init=$DATA/init
  rm -rf "$init"
  server_dir "$init"
  as_server tee "$init/password" <<<"$PASSWORD" >/dev/null
  # The password goes over loopback in clear: hashing it costs an unoptimised client 100 ms a connection.
  as_server "$PG_BIN/initdb" --pgdata="$init/data" --username=token_billing --pwfile="$init/password" \
    --auth=password --encoding=UTF8 --no-locale >"$DATA/initdb.log" || return 1
  mv "$init/data" "$DATA/postgres"
  rm -rf "$init"
}

start_postgres() {
  if ! postmaster_pid >/dev/null; then
    [[ -d $DATA/postgres ]] || init_postgres || return 1
    settle KILL 0 postgres_pids || return 1
    rm -f "$DATA/postgres/postmaster.pid" # nobody is left; its number may be another process's by now
    claim_port POSTGRES_PORT 0
    save_settings
    as_server "$PG_BIN/pg_ctl" -D "$DATA/postgres" -l "$DATA/log/postgres.log" -t 60 -s -w \
      -o "-c port=$POSTGRES_PORT$(printf " -c '%s'" "${POSTGRES_SETTINGS[@]}")" start </dev/null 9>&- || return 1
  fi
  wait_until 60 postgres_ready || return 1
  [[ $(psql_here -XAt -d postgres -c "SELECT 1 FROM pg_database WHERE datname = 'token_billing'") ]] ||
    psql_here -Xq -d postgres -c 'CREATE DATABASE token_billing'
}

# --- RabbitMQ -----------------------------------------------------------------------------------

rabbitmq_env() {
  RABBITMQ_ENV=(
    RABBITMQ_NODENAME="$NODE" ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$EPMD_PORT"
    RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_LOG_BASE="$DATA/log"
  )
}

# The whole family (the VM, its children, epmd, a rabbitmqctl), by the environment it was given.
rabbitmq_pids() { pids_with "RABBITMQ_LOG_BASE=$DATA/log"; }

broker_pids() { pids_with "RABBITMQ_MNESIA_BASE=$DATA/rabbitmq/mnesia" '!(*/epmd)'; }

beam_pid() { pids_with "RABBITMQ_MNESIA_BASE=$DATA/rabbitmq/mnesia" '*/beam*'; }

pids_with() { # VARIABLE=VALUE [PATTERN of the program's path]
  local pid
  for pid in $(grep -lszxF -- "$1" /proc/[0-9]*/environ | cut -d/ -f3 || true); do
    # shellcheck disable=SC2053  # a pattern it is
    if [[ $(readlink "/proc/$pid/exe") == ${2:-*} ]]; then echo "$pid"; fi
  done
}

# Greets in AMQP and waits for the first byte of the broker's own greeting (a method frame).
amqp_answers() (
  exec 3<>"/dev/tcp/127.0.0.1/$AMQP_PORT"
  printf 'AMQP\0\0\11\1' >&3
  IFS= read -r -N 1 -t 5 -u 3 frame && [[ $frame == $'\1' ]]
) 2>/dev/null

rabbitmq_ready() { some beam_pid && amqp_answers; }

launch_rabbitmq() {
  none beam_pid || return 0
  settle KILL 0 rabbitmq_pids || return 1
  claim_port AMQP_PORT 1
  claim_port DIST_PORT 2
  claim_port EPMD_PORT 3
  save_settings
  as_server tee "$DATA/rabbitmq/rabbitmq.conf" >/dev/null <<CONF
default_user = token_billing
default_pass = $PASSWORD
collect_statistics = none
log.file.level = info
CONF
  as_server tee "$DATA/rabbitmq/advanced.config" "$DATA/rabbitmq/enabled_plugins" <<<'[].' >/dev/null
  local RABBITMQ_ENV
  rabbitmq_env
  # As under systemd: the start script becomes the VM rather than its parent.
  as_server env "${RABBITMQ_ENV[@]}" RUNNING_UNDER_SYSTEMD=true \
    RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$AMQP_PORT" RABBITMQ_DIST_PORT="$DIST_PORT" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
    RABBITMQ_MNESIA_BASE="$DATA/rabbitmq/mnesia" \
    RABBITMQ_GENERATED_CONFIG_DIR="$DATA/rabbitmq/config" \
    RABBITMQ_CONFIG_FILE="$DATA/rabbitmq/rabbitmq.conf" \
    RABBITMQ_ADVANCED_CONFIG_FILE="$DATA/rabbitmq/advanced.config" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$DATA/rabbitmq/enabled_plugins" \
    setsid --fork "$RABBITMQ_BIN/rabbitmq-server" </dev/null >"$DATA/rabbitmq.out" 2>&1 9>&-
  wait_until 10 some broker_pids
}

# Up, or dead on the way.
rabbitmq_decided() { none broker_pids || amqp_answers; }

await_rabbitmq() { wait_until 90 rabbitmq_decided && rabbitmq_ready; }

rabbitmqctl_here() {
  local RABBITMQ_ENV
  rabbitmq_env
  as_server env "${RABBITMQ_ENV[@]}" RABBITMQ_CTL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
    "$RABBITMQ_BIN/rabbitmqctl" -q "$@"
}

# --- Up and down --------------------------------------------------------------------------------

# Signals what PIDS_COMMAND lists, waits, and kills what has not gone by then.
settle() { # SIGNAL SECONDS PIDS_COMMAND
  signal_all "$1" "$3"
  wait_until "$2" none "$3" && return 0
  signal_all KILL "$3"
  wait_until 10 none "$3"
}

signal_all() { # SIGNAL PIDS_COMMAND
  local pid
  for pid in $("$2"); do kill "-$1" "$pid" 2>/dev/null || true; done
}

stop_postgres() { # fast | immediate, as pg_ctl calls them
  local signal=INT
  [[ $1 == fast ]] || signal=QUIT
  signal_all "$signal" postmaster_pid
  settle 0 20 postgres_pids
}

kill_rabbitmq() {
  settle KILL 10 beam_pid
  wait_until 10 silent "$AMQP_PORT"
}

start_both() {
  launch_rabbitmq && start_postgres && await_rabbitmq
}

up() {
  local began=$EPOCHREALTIME
  lock
  ensure_programs
  locate_data create
  load_settings || new_settings
  server_dir "$DATA/rabbitmq"
  server_dir "$DATA/log"
  if postgres_ready && rabbitmq_ready; then
    say 'Both servers are up already.'
  else
    # shellcheck disable=SC2034  # read in local.sh
    STARTED=yes
    # The second try is for a port that somebody took between our look and our start.
    start_both || start_both || die "could not start; the logs: $DATA/log/ $DATA/rabbitmq.out"
    say "PostgreSQL on 127.0.0.1:$POSTGRES_PORT and RabbitMQ on 127.0.0.1:$AMQP_PORT are up ($(seconds_since "$began"))."
  fi
  unlock
}

down() { # [--purge]
  local dir
  find_programs
  # Private pairs of test runs that were killed: their directories end in the run's process id.
  for dir in "$STATE"/test/*-*; do
    if [[ -d $dir && ! -d /proc/${dir##*-} ]]; then
      TOKEN_BILLING_LOCAL_DIR=$dir "$ROOT/deploy/local.sh" down --purge
    fi
  done
  locate_data || return 0
  lock
  load_settings || true
  signal_all TERM beam_pid
  stop_postgres fast
  settle 0 30 beam_pid
  settle TERM 5 rabbitmq_pids
  if [[ ${1:-} == --purge ]]; then
    rm -rf "$DATA" "$STATE"/{servers,demo,lock}
    rmdir --ignore-fail-on-non-empty "$STATE"
  fi
  unlock
}

seconds_since() { LC_ALL=C awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", to - from }'; }

print_env() { # [demo]
  local database=token_billing vhost=%2f
  if [[ ${1:-} ]]; then database+=_demo vhost=demo; fi
  printf 'export TOKEN_BILLING_LOCAL_DIR=%q\n' "$STATE"
  printf 'export TOKEN_BILLING__DATABASE__URL=%q\n' \
    "postgres://token_billing:$PASSWORD@127.0.0.1:$POSTGRES_PORT/$database"
  printf 'export TOKEN_BILLING__BROKER__URL=%q\n' "amqp://token_billing:$PASSWORD@127.0.0.1:$AMQP_PORT/$vhost"
}

status() {
  local postgres=down rabbitmq=down
  if postgres_ready; then postgres=up; fi
  if rabbitmq_ready; then rabbitmq=up; fi
  printf '%-11s %-5s 127.0.0.1:%s\n' PostgreSQL $postgres "$POSTGRES_PORT" RabbitMQ $rabbitmq "$AMQP_PORT"
  printf '%-11s %s\n' data "$DATA" logs "$DATA/log"
}
