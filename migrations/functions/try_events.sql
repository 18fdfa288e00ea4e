-- What charge_events would answer, and what it would write until the transaction ends: which can only be rolled back.
create or replace function try_events(
    p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_lock_wait_ms int
) returns table (item int, outcome text, error_message text, job_status_error text)
language plpgsql security definer
set search_path from current
as $$
begin
    -- Before anything is charged, and in the same subtransaction, if the caller has one.
    if cardinality(p_job_ids) > 0 then
        insert into token_billing_trials (id) values (1);
    end if;
    return query
    select * from charge_events(
        p_job_ids, p_company_ids, p_article_ids, p_amounts, p_metadata, p_usage_types, p_lock_wait_ms);
end $$;
