select count(*) as sent,
       count(*) filter (where outcome = 'charged') as charged,
       coalesce(sum(charged_tokens) filter (where outcome = 'charged'), 0)::bigint as charged_tokens,
       count(*) filter (where outcome = 'duplicate') as duplicates,
       count(*) filter (where outcome = 'failed_again') as failed_again,
       count(*) filter (where outcome = 'pending') as pending,
       count(*) filter (where outcome = 'unknown') as unknown,
       count(*) filter (where outcome = 'failed_again' and not expected) as unexpected_failures,
       count(*) filter (where outcome not in ('pending', 'unknown') and not expected)
           as unexpected_known
from (
    select d.id = any($2) as expected, d.charged_tokens,
           case
               when d.failed_again_as is not null then 'failed_again'
               when d.charge_state in ('charged', 'compensated') and d.charged_at >= a.at
                   then case when row_number() over (
                                 partition by d.job_id, d.failed_again_as is null order by d.id) = 1
                             then 'charged' else 'duplicate' end
               -- A dead letter that complains about a charge is not answered by that charge.
               when d.is_resolvable then 'duplicate'
               when d.charge_state = 'pending' then 'pending'
               else 'unknown'
           end as outcome
    from dead_letter_actions a
    join dead_letters_with_charges d on d.id = a.dead_letter_id
    where a.action_id = $1
) sent
