-- Records who does what; the number of the action.
create or replace function record_operator_action(
    p_actor text, p_action text, p_subject text, p_reason text, p_details jsonb
) returns bigint
language sql as $$
    insert into operator_actions (at, actor, action, subject, reason, details, finished_at)
    values (clock_timestamp(), p_actor, p_action, p_subject, p_reason, coalesce(p_details, '{}'),
            case when p_action <> 'replay' then clock_timestamp() end)
    returning id
$$;
