# shellcheck shell=bash
#
# `deploy/local.sh demo`: forty events, some twice and some that can't be charged, through the real
# binary. Each run has a fresh database (token_billing_demo) and a fresh virtual host (demo), and
# leaves both to look around in. What is told about delays is read from the worker's own log.

demo() {
  local dir=$STATE/demo serve='' began
  demo_colours
  chapter 'Private servers, and the binary'
  up
  mkdir -p "$dir"
  BIN=$(cd "$ROOT" && realpath -m "${CARGO_TARGET_DIR:-target}")/debug/token-billing
  [[ -x $BIN ]] || echo 'Building; only the first time takes minutes …'
  (cd "$ROOT" && cargo build --locked --quiet)
  began=$EPOCHREALTIME
  demo_installation

  chapter 'Four companies and their balances'
  "$BIN" migrate >"$dir/migrate.log" 2>&1 || demo_failed "$dir/migrate.log"
  demo_sql -f "$ROOT/deploy/dev/demo.sql"
  demo_table <<'SQL'
SELECT name AS company, to_char(monthly, '999,999') AS monthly, to_char(purchased, '999,999') AS purchased,
       CASE WHEN period_end < now() THEN 'expired ' ELSE 'until ' END || period_end::date AS "monthly quota",
       cardinality(articles) AS articles, (SELECT to_char(sum(a), '99,999') FROM unnest(articles) a) AS tokens
FROM demo.companies ORDER BY name
SQL

  chapter 'A worker starts. 40 events: 4 of them twice, one too early; and a broken body'
  TOKEN_BILLING__LOG__FORMAT=json TOKEN_BILLING__HTTP__LISTEN=127.0.0.1:0 "$BIN" serve >"$dir/serve.log" 2>&1 &
  serve=$!
  # shellcheck disable=SC2064  # this very process
  trap "kill $serve 2>/dev/null || true" EXIT
  wait_until 30 demo_logged "$serve" "$dir/serve.log" consuming || demo_failed "$dir/serve.log"
  demo_sql -c 'SELECT event FROM demo.events ORDER BY md5(event::text)' >"$dir/events.ndjson"
  printf '{"job_id": "8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10", "tokens": 1.5}' >"$dir/malformed.json"
  echo '  $ token-billing publish --file events.ndjson'
  "$BIN" publish --file "$dir/events.ndjson" | sed 's/^/  /'
  "$BIN" publish --raw-file "$dir/malformed.json" >/dev/null

  wait_until 30 demo_logged "$serve" "$dir/serve.log" 'retrying later' || demo_failed "$dir/serve.log"
  demo_sql -c "INSERT INTO article_jobs (id, company_id, article_id, status)
               SELECT job_id, company_id, article_id, 'generated' FROM demo.articles WHERE late"

  # Every job of a company that can pay has its charge, and the others their refusal.
  wait_until 30 demo_settled "$serve" "$dir/serve.log" || demo_failed "$dir/serve.log"
  demo_sql -c "\copy demo.log (line) from '$dir/serve.log' with (format csv, quote e'\x01', delimiter e'\x02')"

  chapter 'What was charged: the monthly quota first, purchased tokens second'
  demo_table <<'SQL'
SELECT d.name AS company,
       to_char(d.monthly, '999,999') || ' →' || to_char(s.monthly_quota_balance, '999,999') AS "monthly balance",
       to_char(d.purchased, '999,999') || ' →' || to_char(s.purchased_token_balance, '999,999') AS "purchased balance",
       to_char(coalesce(c.tokens, 0), '99,999') AS charged, coalesce(c.charges, 0) AS charges
FROM demo.companies d
JOIN company_subscriptions s USING (company_id)
LEFT JOIN (SELECT company_id, sum(amount) AS tokens, count(*) AS charges
           FROM token_deduction_records WHERE status = 'completed' GROUP BY company_id) c USING (company_id)
ORDER BY d.name
SQL
  echo '  The monthly quota of Cedar Daily has expired: it is not spent.'

  chapter 'What arrived twice was charged once'
  demo_table <<'SQL'
SELECT d.name AS company, left(e.job_id::text, 8) || '…' AS job, e.events, count(u.id) AS charges,
       to_char(r.balance_before, '999,999') || ' →' || to_char(r.balance_after, '999,999') AS balance
FROM (SELECT (event ->> 'job_id')::uuid AS job_id, count(*) AS events FROM demo.events GROUP BY 1 HAVING count(*) > 1) e
JOIN token_deduction_records r ON r.idempotency_key = e.job_id::text
JOIN token_usage_logs u ON u.deduction_record_id = r.id
JOIN demo.companies d ON d.company_id = r.company_id
GROUP BY d.name, e.job_id, e.events, r.ledger_seq, r.balance_before, r.balance_after ORDER BY r.ledger_seq
SQL

  chapter 'What could not be charged yet waited in a delay queue (1 s, 2 s, 4 s)'
  demo_table <<'SQL'
SELECT left(l.line ->> 'job.id', 8) || '…' AS job, (l.line ->> 'retry.delay_ms')::int / 1000 || ' s' AS delay,
       to_char(extract(epoch FROM r.completed_at - (l.line ->> 'timestamp')::timestamptz), '0.99') || ' s later' AS charged,
       CASE WHEN l.line ->> 'error.message' LIKE '%has no row of this job'
            THEN 'no company, and no row of the job yet' ELSE left(l.line ->> 'error.message', 37) END AS reason
FROM demo.log l JOIN token_deduction_records r ON r.idempotency_key = l.line ->> 'job.id'
WHERE l.line ->> 'message' = 'retrying later' ORDER BY l.line ->> 'timestamp'
SQL

  chapter 'What could not be charged at all is in the archive of dead letters'
  demo_run dlq list
  demo_run dlq groups

  chapter 'What a replay would do now: a dry run, rolled back'
  demo_run dlq replay --all --dry-run

  chapter 'Dune Digest tops up. Its refused article was parked, not lost: it is charged'
  local dune job
  dune=$(demo_sql -c "SELECT company_id FROM demo.companies WHERE name = 'Dune Digest'")
  job=$(demo_sql -c "SELECT job_id FROM demo.articles WHERE company_id = '$dune'")
  demo_run credit "$dune" --purchased 1000 --key first-top-up --replay-parked --as demo
  demo_run show "$job"

  chapter 'Before a job begins, an application asks: what can not be paid is refused, tokens for the others are held'
  local amber
  amber=$(demo_sql -c "SELECT company_id FROM demo.companies WHERE name = 'Amber Press'")
  job=$(demo_sql -c 'SELECT gen_random_uuid()')
  HTTP_PORT=$(sed -nE 's|.*http listens on http://127.0.0.1:([0-9]+).*|\1|p' "$dir/serve.log")
  HTTP_KEY=$("$BIN" keys add demo --scope read --scope publish 2>/dev/null)
  demo_call GET "/v1/companies/$amber/preflight?tokens=15000"
  demo_call POST /v1/holds "{\"job_id\": \"$job\", \"company_id\": \"$amber\", \"tokens\": 300}"
  demo_call GET "/v1/companies/$amber/balance"
  demo_call POST /v1/events "{\"job_id\": \"$job\", \"company_id\": \"$amber\", \"tokens\": 280}"
  wait_until 30 demo_charged "$job" || demo_failed "$dir/serve.log"
  demo_call GET "/v1/companies/$amber/balance"
  demo_run show "$job"

  chapter 'What waits in the queues'
  wait_until 15 demo_queues_counted || true
  LC_ALL=C sort <<<"$QUEUES" |
    awk -v count="$YELLOW" -v plain="$PLAIN" '{ printf "  %s%6d%s  %s\n", $2 ? count : "", $2, plain, $1 }'

  chapter 'The audit: every row of the ledger is checked'
  demo_run audit

  chapter 'SIGTERM: the worker finishes what is in flight'
  kill -TERM "$serve"
  wait_until 30 demo_ended "$serve" || demo_failed "$dir/serve.log"
  wait "$serve" || demo_failed "$dir/serve.log"
  trap - EXIT
  tail -n 1 "$dir/serve.log" | sed -E 's/.*"message":"([^"]*)".*/  \1/'

  chapter "Done in $(seconds_since "$began"). Now you"
  local bin=${BIN%/*} malformed
  [[ $bin == "$ROOT"/* ]] && bin="\$PWD${bin#"$ROOT"}"
  malformed=$(demo_sql -c "SELECT id FROM dead_letters WHERE reason = 'malformed'")
  cat <<NOW
  eval "\$(deploy/local.sh env demo)"; PATH=$bin:\$PATH

  token-billing serve          # in a terminal of its own, with the line above

  token-billing publish --file ${dir#"$ROOT/"}/events.ndjson   # again: charges nobody
  token-billing dlq watch
  token-billing dlq edit $malformed --set tokens=15 --set company_id=$dune
  token-billing dlq replay $malformed
  token-billing --help

  deploy/local.sh psql token_billing_demo   # the ledger
  deploy/local.sh down                      # stops both servers
NOW
}

demo_installation() {
  psql_here -Xq -d postgres -c 'DROP DATABASE IF EXISTS token_billing_demo WITH (FORCE)' \
    -c 'CREATE DATABASE token_billing_demo' 2>/dev/null
  rabbitmqctl_here delete_vhost demo >/dev/null 2>&1 || true
  rabbitmqctl_here add_vhost demo >/dev/null
  rabbitmqctl_here set_permissions -p demo token_billing '.*' '.*' '.*' >/dev/null
  eval "$(print_env demo)"
}

demo_sql() { psql_here -XAtq -v ON_ERROR_STOP=1 -d token_billing_demo "$@"; }

demo_run() { # ARG…, of the binary; dead letters that need a person are no failure here
  local rows columns=${COLUMNS:-140}
  # shellcheck disable=SC2034  # the rows are only in the way
  if [[ -t 1 ]]; then read -r rows columns < <(stty size </dev/tty) || columns=80; fi
  printf '%s  %s$ token-billing %s%s\n' "$BETWEEN" "$BOLD" "$*" "$PLAIN"
  BETWEEN=$'\n'
  COLUMNS=$((columns - 2)) "$BIN" "$@" 2>&1 | sed 's/^./  &/'
}

# No curl: it need not be there.
demo_call() { # METHOD PATH [BODY], as the application; the answer's status and what matters of it
  local method=$1 path=$2 body=${3:-} answer status
  exec 9<>"/dev/tcp/127.0.0.1/$HTTP_PORT"
  printf '%s %s HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' \
    "$method" "$path" "$HTTP_KEY" "${#body}" "$body" >&9
  answer=$(cat <&9)
  exec 9>&-
  status=${answer#* }
  printf '  %s%s %s%s%s\n  %s  %s\n' "$BOLD" "$method" "$path" "$PLAIN" "${body:+ $body}" "$(demo_status "${status%%$'\r'*}")" \
    "${answer##*$'\r\n\r\n'}"
}

demo_status() { # STATUS
  if [[ $1 == 2* ]]; then printf %s "$1"; else printf '%s%s%s' "$YELLOW" "$1" "$PLAIN"; fi
}

demo_charged() { # JOB
  [[ $(demo_sql -c "SELECT status FROM token_deduction_records WHERE idempotency_key = '$1'") == completed ]]
}

demo_table() {
  psql_here -Xq -v ON_ERROR_STOP=1 -d token_billing_demo -P footer=off -P linestyle=unicode -P border=1 -f - |
    sed -E "/^$/d; 1s/.*/$BOLD&$PLAIN/; s/^/  /
      s/expired [0-9-]+|insufficient_balance|company_not_found|company_mismatch|malformed/$YELLOW&$PLAIN/; s/→/$BLUE&$PLAIN/g"
}

demo_logged() { # SERVE_PID LOG MESSAGE
  if demo_ended "$1"; then return 1; fi
  grep -q "\"message\":\"$3\"" "$2"
}

demo_settled() { # SERVE_PID LOG
  if demo_ended "$1"; then return 1; fi
  [[ $(grep -c '"message":"dead-lettered"' "$2") == 4 && $(demo_sql -c "
    SELECT (SELECT count(*) FROM dead_letters) = 4
       AND (SELECT count(*) FROM demo.articles a LEFT JOIN token_deduction_records r ON r.idempotency_key = a.job_id::text
            WHERE r.status IS DISTINCT FROM 'completed') = 2
       AND (SELECT count(*) FROM token_deduction_records WHERE status = 'failed') = 2") == t ]]
}

# The broker counts what is in a quorum queue every 5 s only.
demo_queues_counted() {
  QUEUES=$(rabbitmqctl_here list_queues -p demo name messages --no-table-headers)
  [[ $QUEUES =~ deductions[[:space:]]+0 && $QUEUES =~ dead-letters[[:space:]]+0 ]]
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

chapter() {
  BETWEEN=''
  printf '\n%s▌%s %s%s%s\n' "$BLUE" "$PLAIN" "$BOLD" "$1" "$PLAIN"
}
