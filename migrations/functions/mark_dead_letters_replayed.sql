-- Marks dead letters that a replay has sent as replayed, where its claim still holds; how many did. Where the answer to
-- the replay was here first, there is nothing to mark, and that counts as held.
create or replace function mark_dead_letters_replayed(
    p_run bigint, p_ids bigint[], p_claimed_at timestamptz
) returns bigint
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_marked bigint;
begin
    perform check_own_action(p_run, 'replay');
    perform lock_dead_letters();
    -- `is not distinct from`: by the ids, never by the index of all that the run has had.
    update dead_letters
    set state = case state when 'open' then 'replayed' else state end,
        replayed_at = p_claimed_at, claimed_until = null
    where id = any (p_ids) and claimed_by is not distinct from p_run
      and (state <> 'open' or claimed_until > clock_timestamp());
    get diagnostics v_marked = row_count;
    -- Sent is sent, whoever has claimed them now.
    perform record_dead_letter_actions(p_run, p_ids, p_claimed_at);
    return v_marked;
end $$;
