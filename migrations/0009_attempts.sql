-- What was tried and moved no money, as it was then.
--
-- Why: a record tells how its key stands now. When a pending charge is made, or written off, the record forgets
-- why it was pending, and whoever looks a second time reads another past than the first time. Here it stays.
--
-- Why a trigger: whichever function decides (and the next one that is written), the past is kept. A charge that
-- succeeds at once never comes here: its record, usage log and `ledger_seq` say all there is.

create table token_deduction_attempts (
    id bigint generated always as identity primary key,
    idempotency_key text collate "C" not null,
    at timestamptz not null default clock_timestamp(),
    company_id uuid not null,
    amount bigint not null,
    -- What the record became: `failed` or `pending`.
    status text not null,
    error_code text,
    error_message text,
    retry_count int not null
);
create index idx_token_deduction_attempts_key on token_deduction_attempts (idempotency_key, id);

create function keep_attempt() returns trigger
language plpgsql as $$
begin
    insert into token_deduction_attempts (
        idempotency_key, company_id, amount, status, error_code, error_message, retry_count)
    values (
        new.idempotency_key, new.company_id, new.amount, new.status, new.error_code, new.error_message,
        new.retry_count);
    return null;
end $$;

-- `claim` is a row that deduct_tokens_batch makes and removes within one transaction.
create trigger keep_attempt_inserted after insert on token_deduction_records
    for each row when (new.status in ('pending', 'failed') and new.error_code <> 'claim')
    execute function keep_attempt();
-- Not for what a sweeper notes in passing: it writes claimed_until alone.
create trigger keep_attempt_updated
    after update of status, error_code, error_message, amount, retry_count on token_deduction_records
    for each row when (new.status in ('pending', 'failed') and new.error_code <> 'claim')
    execute function keep_attempt();

do $$
begin
    execute format('alter function keep_attempt() set search_path = %I, pg_temp', current_schema());
end $$;
revoke execute on function keep_attempt() from public;
