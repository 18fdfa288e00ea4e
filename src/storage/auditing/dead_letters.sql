select case d.state when 'resolved' then 'dead_letter_resolved_uncharged' else 'dead_letter_open_though_charged' end as kind,
       d.company_id, 'dead letter ' || d.id as subject,
       format('%s, %s: job %s is %s', d.state, d.reason, d.job_id, d.charge_state) as detail
from dead_letters_with_charges d
-- What was written off may be tried again, and fail for another reason.
where (d.state = 'resolved' and d.charge_state not in ('charged', 'compensated')
       and not d.is_resolvable and d.written_off_at is null)
   -- The archivist resolves them every minute; what is older than an hour it has missed.
   or (d.state in ('open', 'replayed') and d.is_resolvable
       and coalesce(d.charged_at, d.written_off_at) < clock_timestamp() - interval '1 hour'
       and d.archived_at < clock_timestamp() - interval '1 hour')
