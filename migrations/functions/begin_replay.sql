-- Begins a replay; its number. If its process dies before finish_replay(), it stays unfinished, which is the truth.
create or replace function begin_replay(
    p_actor text, p_subject text, p_reason text, p_details jsonb
) returns bigint
language sql security definer
set search_path from current
as $$ select record_operator_action(p_actor, 'replay', p_subject, p_reason, p_details) $$;
