-- Claims for a replay, until p_lease is over, what of these is open, claimed by nobody and not refunded; what is to be
-- sent, oldest first. A run never takes a dead letter twice, so that none can send the same one over and over because
-- its claims run out too early.
create or replace function claim_dead_letters(p_run bigint, p_ids bigint[], p_lease interval)
    returns table (id bigint, body bytea, properties text, headers text, job_id uuid, claimed_at timestamptz)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
    perform check_own_action(p_run, 'replay');
    perform lock_dead_letters();
    -- `is not distinct from`: by the ids, never by the index of all that is open, here and in release_dead_letters().
    return query
    with claimed as (
        update dead_letters set claimed_by = p_run, claimed_until = clock_timestamp() + p_lease
        where id in (
            select d.id from dead_letters_with_charges d
            where d.id = any (p_ids) and d.state is not distinct from 'open' and d.charge_state <> 'compensated'
              and d.claimed_by is distinct from p_run
              and (d.claimed_until is null or d.claimed_until <= clock_timestamp()))
        returning id, coalesce(edited_body, body) as body, properties, headers, job_id
    )
    select c.id, c.body, c.properties::text, c.headers::text, c.job_id, clock_timestamp()
    from claimed c order by c.id;
end $$;
