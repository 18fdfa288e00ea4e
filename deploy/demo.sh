# shellcheck shell=bash
#
# `deploy/local.sh demo`: forty events, some twice and some that can't be charged, through the real
# binary. Each run has a fresh database (token_billing_demo) and a fresh virtual host (demo), and
# leaves both to look around in.

demo() {
  local dir=$STATE/demo began=$EPOCHREALTIME serve=''
  demo_colours
  chapter 'Private servers, and the binary'
  up
  mkdir -p "$dir"
  (cd "$ROOT" && cargo build --locked --quiet)
  BIN=$(cd "$ROOT" && realpath "${CARGO_TARGET_DIR:-target}")/debug/token-billing
  demo_installation

  chapter 'Four companies and their balances'
  "$BIN" migrate >"$dir/migrate.log" 2>&1 || demo_failed "$dir/migrate.log"
  demo_sql -f "$ROOT/deploy/demo.sql"
  demo_table <<'SQL'
SELECT name AS company, to_char(monthly, '9,999,999') AS monthly, to_char(purchased, '9,999,999') AS purchased,
       CASE WHEN period_end < now() THEN 'expired ' ELSE 'until ' END || period_end::date AS "monthly quota",
       cardinality(articles) AS articles, (SELECT to_char(sum(a), '999,999') FROM unnest(articles) a) AS "tokens to charge"
FROM demo.companies ORDER BY name
SQL

  chapter 'A worker; 40 events, 4 of them sent twice; and a body that is no event'
  "$BIN" serve --role worker >"$dir/serve.log" 2>&1 &
  serve=$!
  # shellcheck disable=SC2064  # this very process
  trap "kill $serve 2>/dev/null || true" EXIT
  demo_sql -c 'SELECT event FROM demo.events ORDER BY md5(event::text)' >"$dir/events.ndjson"
  printf '{"job_id": "not-a-uuid", "tokens": 1.5' >"$dir/malformed.json"
  publish_raw "$dir/malformed.json"
  "$BIN" publish --file "$dir/events.ndjson"

  # Every job of a company that can pay has its charge, and the two others their refusal.
  wait_until 30 demo_settled "$serve" || demo_failed "$dir/serve.log"

  chapter 'What was charged: the monthly quota first, purchased tokens second, nothing twice'
  demo_table <<'SQL'
SELECT d.name AS company,
       to_char(d.monthly, '9,999,999') || ' →' || to_char(s.monthly_quota_balance, '9,999,999') AS monthly,
       to_char(d.purchased, '9,999,999') || ' →' || to_char(s.purchased_token_balance, '9,999,999') AS purchased,
       to_char(coalesce(c.tokens, 0), '999,999') AS charged, coalesce(c.charges, 0) AS charges, e.events
FROM demo.companies d
JOIN company_subscriptions s USING (company_id)
LEFT JOIN (SELECT company_id, sum(amount) AS tokens, count(*) AS charges
           FROM token_deduction_records WHERE status = 'completed' GROUP BY company_id) c USING (company_id)
LEFT JOIN (SELECT a.company_id, count(*) AS events
           FROM demo.events e JOIN demo.articles a ON a.job_id = (e.event ->> 'job_id')::uuid
           GROUP BY a.company_id) e USING (company_id)
ORDER BY d.name
SQL
  say_out "  More events than charges: those were duplicates. The expired quota of Cedar Daily is left alone."

  chapter 'What was refused'
  demo_table <<'SQL'
SELECT coalesce(d.name, 'unknown ' || left(r.company_id::text, 8) || '…') AS company,
       to_char(r.amount, '9,999') AS tokens, r.error_code AS reason, r.error_message AS message
FROM token_deduction_records r LEFT JOIN demo.companies d USING (company_id)
WHERE r.status = 'failed' ORDER BY 1
SQL
  say_out '  No record, since they name no charge: the malformed body, and the event that named another company than its job.'

  chapter 'SIGTERM: finishes what is in hand, then leaves'
  kill -TERM "$serve"
  wait_until 30 demo_ended "$serve" || demo_failed "$dir/serve.log"
  wait "$serve" || demo_failed "$dir/serve.log"
  trap - EXIT
  tail -n 2 "$dir/serve.log" | sed 's/^/  /'

  chapter 'What waits in the queues'
  wait_until 10 demo_letters_counted || true
  LC_ALL=C sort <<<"$QUEUES" |
    awk -v count="$YELLOW" -v plain="$PLAIN" '{ printf "  %s%6d%s  %s\n", $2 ? count : "", $2, plain, $1 }'
  say_out "  Each refused event is a dead letter, with its reason, until somebody decides: none is lost."

  chapter "Done in $(seconds_since "$began"). To look around"
  printf '  export TOKEN_BILLING__DATABASE__URL=%q \\\n         TOKEN_BILLING__BROKER__URL=%q\n' \
    "$TOKEN_BILLING__DATABASE__URL" "$TOKEN_BILLING__BROKER__URL"
  say_out "  ${BIN#"$ROOT/"} --help"
  say_out "  deploy/local.sh psql token_billing_demo"
}

# A file's bytes as they are, which `publish` itself would refuse.
publish_raw() { "$BIN" publish --raw-file "$1"; }

demo_installation() {
  psql_here -Xq -d postgres -c 'DROP DATABASE IF EXISTS token_billing_demo WITH (FORCE)' \
    -c 'CREATE DATABASE token_billing_demo' 2>/dev/null
  rabbitmqctl_here delete_vhost demo >/dev/null 2>&1 || true
  rabbitmqctl_here add_vhost demo >/dev/null
  rabbitmqctl_here set_permissions -p demo token_billing '.*' '.*' '.*' >/dev/null
  eval "$(print_env)"
  export TOKEN_BILLING__DATABASE__URL=${TOKEN_BILLING__DATABASE__URL}_demo
  export TOKEN_BILLING__BROKER__URL=${TOKEN_BILLING__BROKER__URL%/*}/demo
}

demo_sql() { psql_here -XAtq -v ON_ERROR_STOP=1 -d token_billing_demo "$@"; }

demo_table() {
  psql_here -Xq -v ON_ERROR_STOP=1 -d token_billing_demo -P footer=off -P linestyle=unicode -P border=1 -f - |
    sed -E "/^$/d; 1s/.*/$BOLD&$PLAIN/; s/^/  /
      s/expired [0-9-]+|insufficient_balance|company_not_found/$YELLOW&$PLAIN/; s/→/$BLUE&$PLAIN/g"
}

demo_settled() { # SERVE_PID
  if demo_ended "$1"; then return 1; fi
  [[ $(demo_sql -c "
    SELECT (SELECT count(*) FROM demo.articles a LEFT JOIN token_deduction_records r ON r.idempotency_key = a.job_id::text
            WHERE r.status IS DISTINCT FROM 'completed') = 2
       AND (SELECT count(*) FROM token_deduction_records WHERE status = 'failed') = 2") == t ]]
}

# The broker counts what waits in a quorum queue every 5 s only.
demo_letters_counted() {
  QUEUES=$(rabbitmqctl_here list_queues -p demo name messages --no-table-headers)
  [[ $QUEUES =~ dead-letters[[:space:]]+4 ]]
}

demo_ended() { ! kill -0 "$1" 2>/dev/null; }

demo_failed() { # LOG
  tail -n 20 "$1" >&2
  die "the demo did not get through; all of the log: $1"
}

demo_colours() {
  BOLD='' BLUE='' YELLOW='' PLAIN=''
  if [[ -t 1 && -z ${NO_COLOR:-} ]]; then BOLD=$'\e[1m' BLUE=$'\e[1;34m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'; fi
}

chapter() { printf '\n%s▌%s %s%s%s\n' "$BLUE" "$PLAIN" "$BOLD" "$1" "$PLAIN"; }

say_out() { printf '%s\n' "$1"; }
