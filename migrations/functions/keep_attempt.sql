-- Keeps what was tried and moved no tokens, in token_deduction_attempts.
--
-- Why a trigger: whichever function decides (and the next one that is written), the past is kept. A charge that
-- succeeds at once never comes here: its record, usage log and `ledger_seq` say all there is.
create or replace function keep_attempt() returns trigger
language plpgsql
set search_path from current
as $$
begin
    insert into token_deduction_attempts (
        idempotency_key, company_id, amount, status, error_code, error_message, retry_count)
    values (
        new.idempotency_key, new.company_id, new.amount, new.status, new.error_code, new.error_message,
        new.retry_count);
    return null;
end $$;

-- `claim` is a row that deduct_tokens_batch makes and removes within one transaction.
create or replace trigger keep_attempt_inserted after insert on token_deduction_records
    for each row when (new.status in ('pending', 'failed') and new.error_code <> 'claim')
    execute function keep_attempt();
-- Not for what a sweeper notes in passing: it writes claimed_until alone.
create or replace trigger keep_attempt_updated
    after update of status, error_code, error_message, amount, retry_count on token_deduction_records
    for each row when (new.status in ('pending', 'failed') and new.error_code <> 'claim')
    execute function keep_attempt();
