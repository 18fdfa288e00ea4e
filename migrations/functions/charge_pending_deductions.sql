-- Charges those of the keys that are still pending, oldest first, each as it stands now; one row for each. If somebody
-- charges one between the look and the charge, the charge itself finds out.
create or replace function charge_pending_deductions(p_idempotency_keys text[]) returns table (
    idempotency_key text, success boolean, idempotent boolean, error text, error_message text, amount bigint,
    job_status_error text
)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_pending token_deduction_records[];
begin
    v_pending := array(
        select r::token_deduction_records
        from (select distinct u.key collate "C" as key from unnest(p_idempotency_keys) as u (key)) i
        cross join lateral (
            select * from token_deduction_records r where r.idempotency_key = i.key offset 0
        ) r
        where r.status = 'pending'
        order by coalesce(r.pending_since, r.created_at), r.idempotency_key);
    return query
    select p.idempotency_key, d.success, d.idempotent, d.error, d.error_message, d.amount, d.job_status_error
    from deduct_tokens_batch(
        array(select p.idempotency_key from unnest(v_pending) with ordinality p order by p.ordinality),
        array(select p.company_id from unnest(v_pending) with ordinality p order by p.ordinality),
        array(select p.article_id from unnest(v_pending) with ordinality p order by p.ordinality),
        array(select p.amount from unnest(v_pending) with ordinality p order by p.ordinality),
        array(select p.metadata from unnest(v_pending) with ordinality p order by p.ordinality),
        array(select p.usage_type from unnest(v_pending) with ordinality p order by p.ordinality),
        array(select job_of(p.idempotency_key) from unnest(v_pending) with ordinality p order by p.ordinality)) d
    join unnest(v_pending) with ordinality p on p.ordinality = d.item;
end $$;
