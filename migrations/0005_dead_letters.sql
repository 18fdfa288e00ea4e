-- The archive of dead letters: what failed, why, and what people did about it.
--
-- Why a table: looking into a quorum queue reorders it and counts as deliveries; a table can be filtered,
-- grouped and joined with the books.
--
-- Whether money moved is never stored here. It is read from the books whenever somebody looks
-- (`dead_letters_and_money`), so the two can't disagree.
--
-- One writer at a time: whoever changes `dead_letters` first calls lock_dead_letters() and commits soon. So
-- nobody deadlocks over letters, and `last_arrival` is in the order of the commits: who has seen n has seen
-- all before n.

create table dead_letters (
    id bigint generated always as identity primary key,
    state text not null default 'open',
    reason text not null,
    error text not null,
    -- The error with ids, numbers and quoted values folded: one cause, one signature.
    error_signature text not null,
    group_id text not null generated always as (left(md5(reason || ' ' || error_signature), 8)) stored,
    -- As it was published, byte for byte.
    body bytea not null,
    body_sha256 bytea not null generated always as (sha256(body)) stored,
    -- What a replay sends instead; NULL: the body as it came.
    edited_body bytea,
    -- AMQP properties and headers of the first arrival, as far as JSON can hold them.
    properties jsonb not null default '{}',
    headers jsonb not null default '{}',
    -- Read from the body (the edited one, if there is one) where they can be read; a missing company is
    -- that of the job's row.
    job_id uuid,
    company_id uuid,
    article_id uuid,
    tokens bigint,
    -- Tries of the last arrival, the first one included.
    attempts int not null check (attempts >= 1),
    -- Arrivals of this reason and body while open; at least, since a crash may archive one twice.
    occurrences int not null default 1 check (occurrences >= 1),
    first_failed_at timestamptz not null,
    last_failed_at timestamptz not null,
    archived_at timestamptz not null default clock_timestamp(),
    last_arrived_at timestamptz not null default clock_timestamp(),
    -- All arrivals of all letters in order, for those who watch.
    last_arrival bigint not null unique,
    -- The replay (an operator action) that has it in hand, or had it last, and until when nobody else may
    -- take it. The replay's process may die: then the time runs out.
    claimed_by bigint references operator_actions,
    claimed_until timestamptz,
    replayed_at timestamptz,
    -- The letter as which its replay came back.
    failed_again_as bigint references dead_letters,
    resolved_at timestamptz,

    constraint dead_letter_state_known check (state in ('open', 'replayed', 'resolved', 'discarded')),
    constraint dead_letter_replayed_has_time check (state <> 'replayed' or replayed_at is not null),
    constraint dead_letter_resolved_has_time check ((state = 'resolved') = (resolved_at is not null)),
    constraint dead_letter_is_not_its_own_successor check (failed_again_as <> id)
);
create sequence dead_letter_arrival_seq as bigint owned by dead_letters.last_arrival;

-- The identity of an arrival.
create index idx_dead_letters_body on dead_letters (body_sha256);
-- Everything that is open; and one company's, oldest first.
create index idx_dead_letters_open on dead_letters (company_id, id) where state = 'open';
-- One job's; and which of them the books may have settled.
create index idx_dead_letters_job on dead_letters (job_id) where job_id is not null;
create index idx_dead_letters_unresolved on dead_letters (job_id) where state <> 'resolved' and job_id is not null;
-- What a replay has sent, and what became of it.
create index idx_dead_letters_claim on dead_letters (claimed_by) where claimed_by is not null;
create index idx_dead_letters_successor on dead_letters (failed_again_as) where failed_again_as is not null;
create index idx_dead_letters_arrived on dead_letters (last_arrived_at);

-- Which letters each action of an operator touched.
create table dead_letter_actions (
    action_id bigint not null references operator_actions,
    dead_letter_id bigint not null references dead_letters,
    at timestamptz not null default clock_timestamp(),
    primary key (dead_letter_id, action_id)
);
create index idx_dead_letter_actions_action on dead_letter_actions (action_id);

create view dead_letters_and_money as
select d.*,
       case r.status
           when 'completed' then 'charged'
           when 'compensated' then 'compensated'
           when 'pending' then 'pending'
           else 'never_charged'
       end as money,
       case when r.status in ('completed', 'compensated') then r.amount end as charged_tokens,
       case when r.status in ('completed', 'compensated') then r.company_id end as charged_company_id,
       r.completed_at as charged_at,
       -- The books have settled it: its job was charged, in whatever way. A letter that complains about that
       -- very charge is not settled by it, unless it was edited to ask for something else.
       r.status = 'completed'
           and (d.reason not in ('idempotency_key_reused', 'already_compensated') or d.edited_body is not null)
           as is_settled
from dead_letters d
left join lateral (
    select * from token_deduction_records r
    where r.idempotency_key = d.job_id::text collate "C" offset 0
) r on true;

-- Held to the end of the transaction. A statement that changes letters must be a later one: its own look at
-- them has to come after the wait.
create function lock_dead_letters() returns void
language sql as $$ select pg_advisory_xact_lock(hashtextextended('token-billing dead letters', 0)) $$;

-- Archives arrivals, all or none; the id of the letter of each, in input order. The caller acks the
-- messages after the commit: if it dies before, they come again and are counted once too often, never lost.
create function archive_dead_letters(
    p_reasons text[], p_errors text[], p_error_signatures text[], p_bodies bytea[], p_properties jsonb[],
    p_headers jsonb[], p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_tokens bigint[],
    p_attempts int[], p_first_failed_at timestamptz[], p_last_failed_at timestamptz[], p_replay_of bigint[]
) returns table (item int, id bigint)
language plpgsql security definer as $$
#variable_conflict use_column
declare
    v_arrival record;
    v_company_id uuid;
    v_replayed bigint;
begin
    if array[cardinality(p_errors), cardinality(p_error_signatures), cardinality(p_bodies), cardinality(p_properties),
             cardinality(p_headers), cardinality(p_job_ids), cardinality(p_company_ids), cardinality(p_article_ids),
             cardinality(p_tokens), cardinality(p_attempts), cardinality(p_first_failed_at),
             cardinality(p_last_failed_at), cardinality(p_replay_of)]
       is distinct from array_fill(coalesce(cardinality(p_reasons), 0), array[13]) then
        raise exception 'archive_dead_letters: the arrays differ in length' using errcode = 'invalid_parameter_value';
    end if;
    perform lock_dead_letters();

    -- OFFSET 0 below: a plan is made once, perhaps while the table is empty, and kept. Only one is possible so:
    -- by the index of the id or of the body.
    for v_arrival in
        select * from unnest(
            p_reasons, p_errors, p_error_signatures, p_bodies, p_properties, p_headers, p_job_ids, p_company_ids,
            p_article_ids, p_tokens, p_attempts, p_first_failed_at, p_last_failed_at, p_replay_of)
        with ordinality as a (
            reason, error, error_signature, body, properties, headers, job_id, company_id,
            article_id, tokens, attempts, first_failed_at, last_failed_at, replay_of, n)
        order by n
    loop
        item := v_arrival.n;
        id := null;
        -- A replay that came back: whatever its replayer has come to, it was sent. The header that says so
        -- may be anybody's, so the body must be what that letter would have sent.
        v_replayed := null;
        select d.id into v_replayed
        from (select * from dead_letters d where d.id = v_arrival.replay_of offset 0) d
        where d.claimed_by is not null
          and coalesce(d.edited_body, d.body) = v_arrival.body;

        -- Never into the letter that was replayed, nor into one that is just being replayed: who replays
        -- would mark that one as sent, and this failure with it. Nor into an edited one, which may stand for
        -- another job now.
        update dead_letters d
        set occurrences = d.occurrences + 1, error = v_arrival.error, error_signature = v_arrival.error_signature,
            attempts = v_arrival.attempts,
            first_failed_at = least(d.first_failed_at, v_arrival.first_failed_at),
            last_failed_at = greatest(d.last_failed_at, v_arrival.last_failed_at),
            last_arrived_at = clock_timestamp(), last_arrival = nextval('dead_letter_arrival_seq')
        where d.id = (
            select max(t.id)
            from (select * from dead_letters t where t.body_sha256 = sha256(v_arrival.body) offset 0) t
            where t.state = 'open' and t.reason = v_arrival.reason
              and t.edited_body is null and t.id is distinct from v_replayed
              and (t.claimed_until is null or t.claimed_until <= clock_timestamp()))
        returning d.id into id;

        if id is null then
            v_company_id := v_arrival.company_id;
            if v_company_id is null and v_arrival.job_id is not null then
                select j.company_id into v_company_id from article_jobs j where j.id = v_arrival.job_id;
            end if;
            insert into dead_letters (
                reason, error, error_signature, body, properties, headers, job_id, company_id, article_id, tokens,
                attempts, first_failed_at, last_failed_at, last_arrival)
            values (
                v_arrival.reason, v_arrival.error, v_arrival.error_signature, v_arrival.body, v_arrival.properties,
                v_arrival.headers, v_arrival.job_id, v_company_id, v_arrival.article_id, v_arrival.tokens,
                v_arrival.attempts, v_arrival.first_failed_at, v_arrival.last_failed_at,
                nextval('dead_letter_arrival_seq'))
            returning dead_letters.id into id;
        end if;

        update dead_letters d
        set state = case d.state when 'open' then 'replayed' else d.state end,
            replayed_at = coalesce(d.replayed_at, clock_timestamp()),
            claimed_until = null,
            failed_again_as = archive_dead_letters.id
        where d.id = v_replayed;
        return next;
    end loop;

    if cardinality(p_reasons) > 0 then
        perform pg_notify('token_billing_dead_letters', '');
    end if;
end $$;

-- Marks as resolved what the books have settled meanwhile. Returns how many.
create function settle_dead_letters() returns bigint
language plpgsql security definer as $$
declare
    v_settled bigint;
begin
    -- Looked at before the lock is asked for: ordinarily there is nothing to do.
    if not exists (
        select from dead_letters_and_money d
        where d.state <> 'resolved' and d.job_id is not null and d.is_settled
    ) then
        return 0;
    end if;
    perform lock_dead_letters();
    update dead_letters
    set state = 'resolved', resolved_at = clock_timestamp(), claimed_until = null
    where id in (
        select d.id from dead_letters_and_money d
        where d.state <> 'resolved' and d.job_id is not null and d.is_settled);
    get diagnostics v_settled = row_count;
    return v_settled;
end $$;

do $$
declare
    v_function text;
begin
    foreach v_function in array array[
        'archive_dead_letters(text[], text[], text[], bytea[], jsonb[], jsonb[], uuid[], uuid[], uuid[], bigint[], '
            'int[], timestamptz[], timestamptz[], bigint[])',
        'settle_dead_letters()'
    ] loop
        execute format('alter function %s set search_path = %I, pg_temp', v_function, current_schema());
        execute format('alter function %s set plan_cache_mode = force_generic_plan', v_function);
        execute format('alter function %s set enable_seqscan = off', v_function);
        execute format('alter function %s set jit = off', v_function);
        execute format('revoke execute on function %s from public', v_function);
    end loop;
end $$;
revoke execute on function lock_dead_letters() from public;
