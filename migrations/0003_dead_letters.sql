-- The archive of dead letters: what failed, why, and what people did about it.
--
-- Why a table: looking into a quorum queue reorders it and counts as deliveries; a table can be filtered,
-- grouped and joined with the ledger.
--
-- Whether tokens moved is never stored here. It is read from the ledger whenever somebody looks
-- (`dead_letters_with_charges`), so the two can't disagree.
--
-- One writer at a time: whoever changes `dead_letters` first calls lock_dead_letters() and commits soon. So
-- nobody deadlocks over dead letters, and `last_arrival` is in the order of the commits: who has seen n has seen
-- all before n.

-- What people did by hand: who, when, what, to which, why.
create table operator_actions (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    -- Who he said he was,
    actor text not null,
    action text not null,
    subject text not null,
    reason text,
    details jsonb not null default '{}',
    -- and who was connected.
    database_role text not null default session_user,
    -- NULL: a replay that is still running. Everything else is finished when it is recorded.
    finished_at timestamptz default clock_timestamp()
);
create index idx_operator_actions_subject on operator_actions (subject, id);

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
    -- All arrivals of all dead letters in order, for those who watch.
    last_arrival bigint not null unique,
    -- The replay (an operator action) that has claimed it, or had it last, and until when nobody else may
    -- take it. The replay's process may die: then the time runs out.
    claimed_by bigint references operator_actions,
    claimed_until timestamptz,
    replayed_at timestamptz,
    -- The dead letter as which its replay came back.
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
-- One job's; and which of them the ledger may have resolved.
create index idx_dead_letters_job on dead_letters (job_id) where job_id is not null;
create index idx_dead_letters_unresolved on dead_letters (job_id) where state <> 'resolved' and job_id is not null;
-- What a replay has sent, and what became of it.
create index idx_dead_letters_claim on dead_letters (claimed_by) where claimed_by is not null;
create index idx_dead_letters_successor on dead_letters (failed_again_as) where failed_again_as is not null;
create index idx_dead_letters_arrived on dead_letters (last_arrived_at);

-- Which dead letters each action of an operator touched.
create table dead_letter_actions (
    action_id bigint not null references operator_actions,
    dead_letter_id bigint not null references dead_letters,
    at timestamptz not null default clock_timestamp(),
    primary key (dead_letter_id, action_id)
);
create index idx_dead_letter_actions_action on dead_letter_actions (action_id);

-- Each with what the ledger says of its job.
create view dead_letters_with_charges as
select d.*,
       case r.status
           when 'completed' then 'charged'
           when 'compensated' then 'compensated'
           when 'pending' then 'pending'
           else 'never_charged'
       end as charge_state,
       case when r.status in ('completed', 'compensated') then r.amount end as charged_tokens,
       case when r.status in ('completed', 'compensated') then r.company_id end as charged_company_id,
       r.completed_at as charged_at,
       -- Its job was charged, in whatever way. A dead letter that complains about that very charge is not resolved
       -- by it, unless it was edited to ask for something else. Or the charge was pending, which is what a dead letter
       -- `retries_exhausted` says, and the sweeper found that there is no article.
       case r.status
           when 'completed' then
               d.reason not in ('idempotency_key_reused', 'already_compensated') or d.edited_body is not null
           when 'failed' then
               d.reason = 'retries_exhausted' and r.error_code = 'article_not_found'
           else false
       end as is_resolvable,
       r.written_off_at
from dead_letters d
left join lateral (
    select * from token_deduction_records r
    where r.idempotency_key = d.job_id::text collate "C" offset 0
) r on true;
