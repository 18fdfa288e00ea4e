-- Stale pending records behind a place ($2, $3), whoever has claimed or locked them; $1 in seconds.
select r.idempotency_key, r.company_id, a.id as article_id, k.job_id, r.amount,
       coalesce(r.pending_since, r.created_at) as pending_since,
       case when r.claimed_until > clock_timestamp() then r.claimed_until end as claimed_until,
       f.is_there as article_exists
from token_deduction_records r
cross join lateral (select job_of(r.idempotency_key) as job_id) k
left join article_jobs j on j.id = k.job_id and j.company_id = r.company_id
cross join lateral (select coalesce(r.article_id, j.article_id) as id) a
cross join lateral find_article(a.id) f
where r.status = 'pending'
  and coalesce(r.pending_since, r.created_at) <= clock_timestamp() - make_interval(secs => $1)
  and (coalesce(r.pending_since, r.created_at), r.idempotency_key)
      > (coalesce($2, '-infinity'::timestamptz), coalesce($3, '') collate "C")
order by coalesce(r.pending_since, r.created_at), r.idempotency_key
limit $4
