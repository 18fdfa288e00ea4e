-- Notes what came of a replay, for the role that began it; whether there was one to finish.
create or replace function finish_replay(p_run bigint, p_details jsonb) returns boolean
language plpgsql security definer
set search_path from current
as $$
begin
    update operator_actions set details = p_details || details, finished_at = clock_timestamp()
    where id = p_run and finished_at is null and database_role = session_user;
    return found;
end $$;
