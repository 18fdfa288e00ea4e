-- The ledger and its audit trail are append-only.
--
-- Why: a right to write is a right to rewrite. Who acted is recorded by a function that notes the database role
-- beside the name that was given; what is finished can't be changed; and nobody removes rows, the owner included,
-- except by taking the guard away first (`alter table … disable trigger …`), which is no accident.

alter table operator_actions
    -- Who was connected; `actor` is who he said he was. NULL: from before this was recorded.
    add column database_role text,
    -- NULL: a replay that is still running. Everything else is finished when it is recorded.
    add column finished_at timestamptz;
update operator_actions set finished_at = at;
alter table operator_actions
    alter column database_role set default session_user,
    alter column finished_at set default clock_timestamp();

create function refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception '% on % is refused: rows of the ledger and its audit trail stay as they are', lower(tg_op), tg_table_name
        using errcode = 'insufficient_privilege',
              hint = format('Its owner can, knowingly: alter table %I disable trigger %I', tg_table_name, tg_name);
end $$;

do $$
declare
    v_table text;
begin
    foreach v_table in array array[
        'token_usage_logs', 'token_credits', 'token_deduction_attempts', 'operator_actions', 'dead_letters',
        'dead_letter_actions'
    ] loop
        execute format('create trigger no_delete before delete on %I for each statement execute function refuse_change()',
                       v_table);
        execute format('create trigger no_truncate before truncate on %I for each statement '
                       'execute function refuse_change()', v_table);
    end loop;
end $$;
create trigger no_delete before delete on token_deduction_records
    for each row when (old.error_code is distinct from 'claim') execute function refuse_change();
create trigger no_truncate before truncate on token_deduction_records
    for each statement execute function refuse_change();
create trigger no_update before update on dead_letter_actions
    for each statement execute function refuse_change();
-- A replay that runs may be finished once, and may add to its details; nothing else of an action ever changes.
create trigger no_update before update on operator_actions
    for each row
    when (old.finished_at is not null or new.finished_at is null or not new.details @> old.details
          or (new.id, new.at, new.actor, new.action, new.subject, new.reason, new.database_role)
             is distinct from (old.id, old.at, old.actor, old.action, old.subject, old.reason, old.database_role))
    execute function refuse_change();

-- Records who does what; the number of the action. A replay is to be finished by finish_operator_action(): if its
-- process dies before, it stays unfinished, which is the truth.
create function record_operator_action(
    p_actor text, p_action text, p_subject text, p_reason text, p_details jsonb
) returns bigint
language sql security definer as $$
    insert into operator_actions (at, actor, action, subject, reason, details, finished_at)
    values (clock_timestamp(), p_actor, p_action, p_subject, p_reason, coalesce(p_details, '{}'),
            case when p_action <> 'replay' then clock_timestamp() end)
    returning id
$$;

-- Notes what came of a replay, for the role that began it; whether there was one to finish.
create function finish_operator_action(p_action_id bigint, p_details jsonb) returns boolean
language plpgsql security definer as $$
begin
    update operator_actions set details = p_details || details, finished_at = clock_timestamp()
    where id = p_action_id and finished_at is null and database_role = session_user;
    return found;
end $$;

-- Which dead letters an action touched. Only an action of one's own.
create function record_dead_letter_actions(p_action_id bigint, p_dead_letter_ids bigint[], p_at timestamptz) returns void
language sql security definer as $$
    insert into dead_letter_actions (action_id, dead_letter_id, at)
    select a.id, d.id, coalesce(p_at, clock_timestamp())
    from operator_actions a cross join unnest(p_dead_letter_ids) as d (id)
    where a.id = p_action_id and a.database_role = session_user
    on conflict do nothing
$$;

do $$
declare
    v_function text;
begin
    foreach v_function in array array[
        'record_operator_action(text, text, text, text, jsonb)',
        'finish_operator_action(bigint, jsonb)',
        'record_dead_letter_actions(bigint, bigint[], timestamptz)'
    ] loop
        execute format('alter function %s set search_path = %I, pg_temp', v_function, current_schema());
        execute format('revoke execute on function %s from public', v_function);
    end loop;
end $$;
revoke execute on function refuse_change() from public;
