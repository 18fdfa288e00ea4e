-- Holds that have expired and are still open, the oldest first, those after (p_after, p_after_job), with what is known of
-- their jobs. `is_decided`: there is a record or a dead letter, so the event came.
create or replace function expired_holds(p_after timestamptz, p_after_job uuid, p_limit int)
returns table (
    job_id uuid, company_id uuid, article_id uuid, amount bigint, expires_at timestamptz, is_decided boolean,
    article_exists boolean
)
language sql stable security definer
set search_path from current
set enable_seqscan = off set jit = off
as $$
    select h.job_id, h.company_id, h.article_id, h.amount, h.expires_at, h.is_decided, f.is_there
    from (
        select h.job_id, h.company_id, coalesce(r.article_id, j.article_id) as article_id, h.amount, h.expires_at,
               r.company_id is not null or exists (select from dead_letters d where d.job_id = h.job_id) as is_decided
        from token_holds h
        left join lateral (
            select r.company_id, r.article_id from token_deduction_records r
            where r.idempotency_key = h.job_id::text collate "C" offset 0
        ) r on true
        left join lateral (
            select j.article_id from article_jobs j where j.id = h.job_id and j.company_id = h.company_id offset 0
        ) j on true
        where h.status = 'open' and h.expires_at <= clock_timestamp()
          and (h.expires_at, h.job_id)
              > (coalesce(p_after, '-infinity'), coalesce(p_after_job, '00000000-0000-0000-0000-000000000000'))
        order by h.expires_at, h.job_id
        limit p_limit
    ) h
    cross join lateral find_article(h.article_id) f
    order by h.expires_at, h.job_id
$$;
