-- Lets go of a replay's claims on dead letters that are not certain to have been sent. `claimed_by` stays: if one was
-- sent after all and comes back, it is known whose it is.
create or replace function release_dead_letters(p_run bigint, p_ids bigint[]) returns void
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
begin
    perform check_own_action(p_run, 'replay');
    perform lock_dead_letters();
    update dead_letters set claimed_until = null
    where id = any (p_ids) and claimed_by is not distinct from p_run and state is not distinct from 'open';
end $$;
