-- Raises unless this is such an action, and of the role that is connected.
create or replace function check_own_action(p_action_id bigint, p_action text) returns void
language plpgsql as $$
begin
    if not exists (
        select from operator_actions
        where id = p_action_id and action = p_action and database_role = session_user
    ) then
        raise exception 'operator action % is not a % of role %', p_action_id, p_action, session_user
            using errcode = 'insufficient_privilege';
    end if;
end $$;
