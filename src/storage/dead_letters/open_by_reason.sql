select d.reason, count(*) as open,
       least(coalesce(sum(greatest(d.tokens, 0)), 0), 9223372036854775807)::bigint as tokens,
       min(d.archived_at) as oldest_archived_at,
       greatest(extract(epoch from clock_timestamp() - min(d.archived_at)), 0)::bigint as oldest_age_seconds
from dead_letters d
where d.state = 'open'
group by d.reason
order by count(*) desc, d.reason
