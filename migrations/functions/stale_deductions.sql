-- Pending longer than p_stale_after by this database's clock and claimed by nobody, oldest first, with what
-- `articles` says of them; those after (p_after, p_after_key).
create or replace function stale_deductions(
    p_stale_after interval, p_after timestamptz, p_after_key text, p_limit int
) returns setof stale_deduction
language sql stable security definer
set search_path from current
set enable_seqscan = off set jit = off
as $$
    select r.idempotency_key, r.company_id, r.article_id, r.job_id, r.amount, r.pending_since, f.is_there
    from (
        select r.idempotency_key, r.company_id, coalesce(r.article_id, j.article_id) as article_id, k.job_id,
               r.amount, coalesce(r.pending_since, r.created_at) as pending_since
        from token_deduction_records r
        cross join lateral (select job_of(r.idempotency_key) as job_id) k
        left join lateral (
            select j.article_id from article_jobs j
            where j.id = k.job_id and j.company_id = r.company_id offset 0
        ) j on true
        where r.status = 'pending'
          and coalesce(r.pending_since, r.created_at) <= clock_timestamp() - p_stale_after
          and (coalesce(r.pending_since, r.created_at), r.idempotency_key)
              > (coalesce(p_after, '-infinity'), coalesce(p_after_key, '') collate "C")
          and (r.claimed_until is null or r.claimed_until <= clock_timestamp())
        order by coalesce(r.pending_since, r.created_at), r.idempotency_key
        limit p_limit
    ) r
    cross join lateral find_article(r.article_id) f
    order by r.pending_since, r.idempotency_key
$$;
