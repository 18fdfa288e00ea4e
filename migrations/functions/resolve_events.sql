-- Company and article of each event, its own or those that are known of its job. A job whose row is gone is known by its
-- record: charged again, it is answered with its first result. `jobs_company_id`: the company of the job's row.
create or replace function resolve_events(p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[])
returns table (n bigint, job_id uuid, company_id uuid, article_id uuid, jobs_company_id uuid)
language sql stable as $$
    select i.n, i.job_id, coalesce(i.company_id, j.company_id, r.company_id),
           coalesce(i.article_id, j.article_id, r.article_id), j.company_id
    from unnest(p_job_ids, p_company_ids, p_article_ids) with ordinality as i (job_id, company_id, article_id, n)
    left join lateral (
        select a.company_id, a.article_id from article_jobs a
        where a.id = i.job_id and a.company_id is not null offset 0
    ) j on true
    -- Each by its key, whatever a plan made on an empty table would rather do.
    left join lateral (
        select r.company_id, r.article_id from token_deduction_records r
        where i.company_id is null and j.company_id is null and r.idempotency_key = i.job_id::text collate "C" offset 0
    ) r on true
$$;
