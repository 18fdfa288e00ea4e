-- Which dead letters an action touched.
create or replace function record_dead_letter_actions(
    p_action_id bigint, p_dead_letter_ids bigint[], p_at timestamptz
) returns void
language sql as $$
    insert into dead_letter_actions (action_id, dead_letter_id, at)
    select p_action_id, d.id, p_at from unnest(p_dead_letter_ids) as d (id)
    on conflict do nothing
$$;
