-- Anybody's bodies are summed: more than a bigint holds must not fail the look at it.
select d.group_id, d.reason, d.error_signature, count(*) as dead_letters,
       sum(d.occurrences)::bigint as occurrences,
       least(coalesce(sum(greatest(d.tokens, 0)), 0), 9223372036854775807)::bigint as tokens,
       count(distinct d.company_id) as companies,
       min(d.first_failed_at) as oldest, max(d.last_failed_at) as newest,
       count(*) over () as of_groups
from dead_letters d
where true
