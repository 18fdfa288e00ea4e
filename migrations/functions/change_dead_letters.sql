-- Discards (open → discarded) or restores (discarded → open) what of these is in the state for it and claimed by no
-- replay; how many, and the action that they belong to, which is recorded with the first: p_action_id, if an earlier call
-- has. Neither touches the ledger.
create or replace function change_dead_letters(
    p_action text, p_ids bigint[], p_action_id bigint, p_actor text, p_subject text, p_reason text,
    out action_id bigint, out changed bigint
)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_from constant text := case p_action when 'discard' then 'open' when 'restore' then 'discarded' end;
    v_to constant text := case p_action when 'discard' then 'discarded' when 'restore' then 'open' end;
    v_changed bigint[];
begin
    action_id := p_action_id;
    if p_action_id is not null then
        perform check_own_action(p_action_id, p_action);
    end if;
    perform lock_dead_letters();
    with done as (
        update dead_letters set state = v_to
        where id = any (p_ids) and state = v_from
          and (claimed_until is null or claimed_until <= clock_timestamp())
        returning id
    )
    select array_agg(id) into v_changed from done;
    changed := coalesce(cardinality(v_changed), 0);
    if changed > 0 then
        action_id := coalesce(action_id, record_operator_action(p_actor, p_action, p_subject, p_reason, '{}'));
        perform record_dead_letter_actions(action_id, v_changed, clock_timestamp());
    end if;
end $$;
