-- The ledger and its audit trail are append-only.
--
-- Why: a right to write is a right to rewrite. What is finished can't be changed, and nobody removes rows, the owner
-- included, except by taking the guard away first (`alter table … disable trigger …`), which is no accident.
create or replace function refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception '% on % is refused: rows of the ledger and its audit trail stay as they are', lower(tg_op), tg_table_name
        using errcode = 'insufficient_privilege',
              hint = format('Its owner can, knowingly: alter table %I disable trigger %I', tg_table_name, tg_name);
end $$;

create or replace trigger no_delete before delete on dead_letter_actions
    for each statement execute function refuse_change();
create or replace trigger no_truncate before truncate on dead_letter_actions
    for each statement execute function refuse_change();
create or replace trigger no_delete before delete on dead_letters
    for each statement execute function refuse_change();
create or replace trigger no_truncate before truncate on dead_letters
    for each statement execute function refuse_change();
create or replace trigger no_delete before delete on operator_actions
    for each statement execute function refuse_change();
create or replace trigger no_truncate before truncate on operator_actions
    for each statement execute function refuse_change();
create or replace trigger no_delete before delete on token_billing_locks
    for each statement execute function refuse_change();
create or replace trigger no_truncate before truncate on token_billing_locks
    for each statement execute function refuse_change();
create or replace trigger no_delete before delete on token_credits
    for each statement execute function refuse_change();
create or replace trigger no_truncate before truncate on token_credits
    for each statement execute function refuse_change();
create or replace trigger no_delete before delete on token_deduction_attempts
    for each statement execute function refuse_change();
create or replace trigger no_truncate before truncate on token_deduction_attempts
    for each statement execute function refuse_change();
create or replace trigger no_delete before delete on token_holds
    for each statement execute function refuse_change();
create or replace trigger no_truncate before truncate on token_holds
    for each statement execute function refuse_change();
create or replace trigger no_delete before delete on token_usage_logs
    for each statement execute function refuse_change();
create or replace trigger no_truncate before truncate on token_usage_logs
    for each statement execute function refuse_change();
-- But for a claim on a new key that deduct_tokens_batch makes and removes within one transaction.
create or replace trigger no_delete before delete on token_deduction_records
    for each row when (old.error_code is distinct from 'claim') execute function refuse_change();
create or replace trigger no_truncate before truncate on token_deduction_records
    for each statement execute function refuse_change();
create or replace trigger no_update before update on dead_letter_actions
    for each statement execute function refuse_change();
-- A replay that runs may be finished once, and may add to its details; nothing else of an action ever changes.
create or replace trigger no_update before update on operator_actions
    for each row
    when (old.finished_at is not null or new.finished_at is null or not new.details @> old.details
          or (new.id, new.at, new.actor, new.action, new.subject, new.reason, new.database_role)
             is distinct from (old.id, old.at, old.actor, old.action, old.subject, old.reason, old.database_role))
    execute function refuse_change();
