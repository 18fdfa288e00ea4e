with record as materialized (
    select * from token_deduction_records where idempotency_key = $1 collate "C"
), attempt as materialized (
    select * from token_deduction_attempts where idempotency_key = $1 collate "C"
), untold as materialized (
    select * from record where not exists (select from attempt)
), job as materialized (
    select * from article_jobs where id = job_of($1)
), hold as materialized (
    select * from token_holds where job_id = job_of($1)
), dead_letter as materialized (
    select * from dead_letters where job_id = job_of($1)
)
select * from (
    select case when created_at between '0001-01-02' and '9999-12-30' then created_at end as at,
           'job_created' as what, null as actor, null::bigint as dead_letter_id,
           null::bigint as tokens, null::int as attempts, format('company %s', company_id) as detail
    from job
    union all
    select case when f.created_at between '0001-01-02' and '9999-12-30' then f.created_at end,
           'article_written', null, null, null, null, format('article %s', a.article_id)
    from (select article_id from record union select article_id from job) a
    cross join lateral find_article(a.article_id) f
    where f.is_there
    union all
    select at, case when status = 'pending' then 'charge_pending'
                    when error_code = 'article_not_found' then 'written_off'
                    else 'charge_refused' end,
           null, null, amount,
           case when status = 'failed' and error_code <> 'article_not_found' then retry_count + 1 end, error_message
    from attempt
    union all
    select created_at, 'held', null, null, amount, null,
           format('until %s', to_char(expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
    from hold
    union all
    select closed_at, case status when 'charged' then 'hold_charged' else 'hold_released' end, null, null, amount, null,
           reason
    from hold where closed_at is not null
    union all
    select created_at, 'charge_tried', null, null, amount, null, null
    from untold where completed_at is null or retry_count > 0
    union all
    select coalesce(pending_since, created_at), 'charge_pending', null, null, amount, null,
           case when status = 'pending' then error_message end
    from untold where pending_since is not null or status = 'pending'
    union all
    select coalesce(written_off_at, created_at), 'written_off', null, null, amount, null, error_message
    from untold where status = 'failed' and error_code = 'article_not_found'
    union all
    select created_at, 'charge_refused', null, null, amount, retry_count + 1, error_message
    from untold where status = 'failed' and error_code <> 'article_not_found'
    union all
    select completed_at, 'charged', null, null, amount, retry_count + 1,
           format('%s monthly and %s purchased; balance %s -> %s, position %s', monthly_deducted,
                  purchased_deducted, balance_before, balance_after, ledger_seq)
    from record where completed_at is not null
    union all
    select c.created_at, 'refunded', c.actor, null, c.monthly_amount + c.purchased_amount, null,
           format('%s monthly and %s purchased, %s forfeited; position %s%s', c.monthly_amount,
                  c.purchased_amount, c.forfeited_amount, c.ledger_seq, ': ' || c.reason)
    from token_credits c where c.idempotency_key = $1 and c.kind = 'refund'
    union all
    select f.replayed_at, 'replay_failed_again', null, f.id, null, null, format('came back as %s', f.failed_again_as)
    from dead_letter f where f.failed_again_as is not null
    union all
    select resolved_at, 'resolved', null, id, null, null, null from dead_letter where resolved_at is not null
    union all
    select l.at, o.action, o.actor, l.dead_letter_id, null, null, o.reason
    from dead_letter d
    join dead_letter_actions l on l.dead_letter_id = d.id
    join operator_actions o on o.id = l.action_id
) moments
order by at nulls first
limit $2
