#!/usr/bin/env bash
#
# A PostgreSQL and a RabbitMQ of this checkout's own, on free loopback ports, for development,
# tests and measurements. Nothing that already runs on the machine is touched or needed.
#
#   deploy/local.sh up                    start both (installs them first where they are missing)
#   deploy/local.sh down [--purge]        stop both; the data stays unless --purge
#   deploy/local.sh status                what runs where
#   deploy/local.sh env [demo]            settings for a shell:  eval "$(deploy/local.sh env)"
#   deploy/local.sh psql [ARG]…           psql in the private database
#   deploy/local.sh rabbitmqctl ARG…      rabbitmqctl on the private broker
#   deploy/local.sh browser               where chromedriver is (installs Chromium first where it is missing)
#   deploy/local.sh schemathesis          where schemathesis is (installs it into .local/ first where it is missing)
#   deploy/local.sh demo                  a guided tour: charges, duplicates, refusals
#   deploy/local.sh test [--all] [-- ARG…]  format, lints, docs, tests; --all adds the long ones,
#                                         what follows -- goes to cargo test
#   deploy/local.sh bench [ARG]…          token-billing bench, release build
#   deploy/local.sh help
#
# For tests that break things; each waits until the server is really down, or ready again:
#
#   restart-postgres | stop-postgres | start-postgres    stops like a crash (immediate mode)
#   kill-rabbitmq | start-rabbitmq                       kill -9
#
# Everything lives in .local/ of the checkout, or in $TOKEN_BILLING_LOCAL_DIR (absolute): each such
# directory is a pair of servers of its own.

set -euo pipefail
umask 022

ROOT=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=$(readlink -m -- "${TOKEN_BILLING_LOCAL_DIR:-$ROOT/.local}")
DATA=      # where the servers keep their files; set by locate_data
STARTED=   # set when this very run had to start a server

say() { printf '%s\n' "$*" >&2; }
die() { printf 'local.sh: %s\n' "$*" >&2; exit 1; }
misused() { printf 'local.sh: %s\n' "$*" >&2; exit 2; }

wait_until() { # SECONDS COMMAND…
  local deadline=$((SECONDS + $1)); shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# Asked twice: in the middle of an exec a process has no environment to be known by.
none() { [[ -z $("$1") ]] && sleep 0.05 && [[ -z $("$1") ]]; }
some() { ! none "$1"; }

# shellcheck source=deploy/dev/servers.sh
. "$ROOT/deploy/dev/servers.sh"
# shellcheck source=deploy/dev/browser.sh
. "$ROOT/deploy/dev/browser.sh"
# shellcheck source=deploy/dev/schemathesis.sh
. "$ROOT/deploy/dev/schemathesis.sh"

heading() {
  local bold='' plain=''
  if [[ -t 2 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' plain=$'\e[0m'; fi
  say "$bold==> $1$plain"
}

step() { # TITLE COMMAND…, which is a program: in a function `set -e` would not hold here
  local began=$EPOCHREALTIME
  heading "$1"
  shift
  "$@" || die "failed after $(seconds_since "$began"): $*"
  say "    $(seconds_since "$began")"
}

run_tests() {
  local cargo_args=()
  while (($#)); do
    case $1 in
      --all) export TOKEN_BILLING_TEST_LONG=1 ;;
      --) shift; cargo_args=("$@"); break ;;
      *) misused "test does not know $1 (arguments of cargo test go after --)" ;;
    esac
    shift
  done
  heading 'Servers'
  up
  if [[ $STARTED ]]; then trap down EXIT; fi
  browser >/dev/null
  schemathesis >/dev/null
  eval "$(print_env)"
  cd "$ROOT"
  step 'Format' cargo fmt --check
  step 'Lints' cargo clippy --all-targets --locked -- -D warnings
  step 'Docs' env RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked
  step 'Tests' cargo test --locked "${cargo_args[@]}"
  say 'All passed.'
}

bench() {
  cd "$ROOT"
  cargo build --release --locked
  local bin=${CARGO_TARGET_DIR:-target}/release/token-billing
  # Only to have the arguments looked at before servers are started for them.
  "$bin" bench "$@" --help >/dev/null || exit
  up
  eval "$(print_env)"
  exec "$bin" bench "$@"
}

usage() { sed -n '/^# A Post/,/^$/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

# What a verb doesn't know is refused before anything is started or stopped: a mistyped `down --purge` must not stop
# the servers and leave their data.
takes() { # [ARGUMENT]: the only one that the verb may be given
  local argument
  for argument in "${args[@]}"; do
    [[ ${1:-} && $argument == "$1" ]] || misused "$verb does not know $argument (deploy/local.sh help lists what it does)"
  done
}

verb=${1:-help}
args=("${@:2}")
case $verb in
  up) takes && up ;;
  down) takes --purge && down "${args[@]}" ;;
  env) takes demo && need_servers && print_env "${args[@]}" ;;
  status) takes && need_servers && status ;;
  browser) takes && browser ;;
  schemathesis) takes && schemathesis ;;
  psql) need_servers && psql_here "${args[@]}" ;;
  rabbitmqctl) need_servers && rabbitmqctl_here "${args[@]}" ;;
  test) run_tests "${args[@]}" ;;
  bench) bench "${args[@]}" ;;
  demo)
    takes
    # shellcheck source=deploy/dev/demo.sh
    . "$ROOT/deploy/dev/demo.sh"
    demo
    ;;
  stop-postgres) takes && need_servers && lock && stop_postgres immediate ;;
  start-postgres) takes && need_servers && lock && start_postgres ;;
  restart-postgres) takes && need_servers && lock && stop_postgres immediate && start_postgres ;;
  kill-rabbitmq) takes && need_servers && lock && kill_rabbitmq ;;
  start-rabbitmq) takes && need_servers && lock && launch_rabbitmq && await_rabbitmq ;;
  help | -h | --help) takes && usage ;;
  *) misused "there is no $verb; deploy/local.sh help lists what there is" ;;
esac
