select to_char(at, 'YYYY-MM-DD') as day, reason, count(*) as count,
       least(coalesce(sum(greatest(tokens, 0)), 0), 9223372036854775807)::bigint as tokens
from (
    select coalesce(written_off_at, created_at) as at, 'article_not_found' as reason, amount as tokens
    from token_deduction_records where status = 'failed' and error_code = 'article_not_found'
    union all
    -- One dead letter a job, of those whose jobs the ledger knows no other end of.
    select distinct on (coalesce(job_id::text, id::text)) coalesce(discarded_at, last_arrived_at), 'discarded', tokens
    from (
        select d.*, (select max(a.at) from dead_letter_actions l join operator_actions a on a.id = l.action_id
                     where l.dead_letter_id = d.id and a.action = 'discard') as discarded_at
        from dead_letters_with_charges d
        left join token_deduction_records r on r.idempotency_key = d.job_id::text collate "C"
        where d.state = 'discarded' and d.charge_state = 'never_charged'
          and r.error_code is distinct from 'article_not_found'
    ) discarded
    union all
    select created_at, case kind when 'refund' then 'forfeited_by_refund' else 'forfeited_by_renewal' end,
           forfeited_amount
    from token_credits where forfeited_amount > 0
) given
group by 1, 2 order by 1, 2
