-- For whoever changes dead letters. Held to the end of the transaction. A statement that changes them must be a later
-- one: its own look at them has to come after the wait.
create or replace function lock_dead_letters() returns void
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
begin
    perform from token_billing_locks where slot = -1 for update;
    if not found then
        raise exception 'token_billing_locks has no row -1' using errcode = 'object_not_in_prerequisite_state';
    end if;
end $$;
