-- Gives a dead letter a new body beside its original one, which a replay sends instead; and what can be read from it.
-- p_seen is what the editor began with. Returns the number of the action, or why the body stays as it was.
--
-- Refused if tokens have moved for any job that it stands or stood for: what was charged stays what it is.
create or replace function edit_dead_letter(
    p_id bigint, p_seen bytea, p_body bytea, p_job_id uuid, p_company_id uuid, p_article_id uuid, p_tokens bigint,
    p_actor text, p_reason text,
    out action_id bigint,
    out error text,                 -- not_found, not_open, being_replayed, edited_meanwhile or job_charged
    out state text,                 -- with not_open
    -- Of the charge, with job_charged.
    out job_id text, out refunded boolean, out amount bigint, out company_id uuid, out completed_at timestamptz
)
language plpgsql security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    v_found dead_letters;
begin
    perform lock_dead_letters();
    select * into v_found from dead_letters where id = p_id;
    error := case
        when v_found.id is null then 'not_found'
        when v_found.state <> 'open' then 'not_open'
        when v_found.claimed_until > clock_timestamp() then 'being_replayed'
        when coalesce(v_found.edited_body, v_found.body) is distinct from p_seen then 'edited_meanwhile'
    end;
    if error is not null then
        state := v_found.state;
        return;
    end if;
    select 'job_charged', r.idempotency_key, r.status = 'compensated', r.amount, r.company_id, r.completed_at
    into error, job_id, refunded, amount, company_id, completed_at
    from token_deduction_records r
    where r.idempotency_key = any (array[v_found.job_id::text, p_job_id::text] || array(
              select a.details ->> 'job_before'
              from dead_letter_actions t join operator_actions a on a.id = t.action_id
              where t.dead_letter_id = p_id and a.action = 'edit'))
      and r.status in ('completed', 'compensated')
    order by r.ledger_seq limit 1;
    if found then
        return;
    end if;

    -- Of several edits the bodies and jobs in between are kept here only.
    action_id := record_operator_action(
        p_actor, 'edit', p_id::text, p_reason,
        jsonb_build_object('job_before', v_found.job_id, 'body', convert_from(p_body, 'UTF8')));
    update dead_letters
    -- Back to the original: then it is not an edited one any more.
    set edited_body = nullif(p_body, body), job_id = p_job_id, article_id = p_article_id, tokens = p_tokens,
        company_id = coalesce(p_company_id, (select j.company_id from article_jobs j where j.id = p_job_id))
    where id = p_id;
    perform record_dead_letter_actions(action_id, array[p_id], clock_timestamp());
end $$;
