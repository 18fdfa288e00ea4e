-- The ledger: what was charged, credited and used, and what was tried and moved no tokens.
--
-- Why these shapes:
-- * Legal states are CHECK constraints: whatever code runs, a row that contradicts itself can't exist.
-- * `ledger_seq` orders every movement of one company. It is drawn while the company's row is locked,
--   so per company it is the order in which the balance really changed; clocks can't give that.
-- * Every index of `token_deduction_records` is written on the hot path. Each is the cheapest kind
--   that serves its queries; measured, a full b-tree on `id` alone cost a fifth of the throughput,
--   so the idempotency key is the primary key and `id` is a plain column.
-- * Nobody removes a row, the owner included, nor changes what is finished (functions/refuse_change.sql).

create sequence token_ledger_seq as bigint;

create table token_deduction_records (
    -- The job's UUID in lower case with hyphens, however it was spelled (functions/canonical_key.sql), or any text that
    -- another caller of the functions uses.
    idempotency_key text collate "C" not null,
    id uuid not null default gen_random_uuid(),
    company_id uuid not null,
    article_id uuid,
    amount bigint not null,
    status text not null,
    monthly_deducted bigint not null default 0,
    purchased_deducted bigint not null default 0,
    balance_before bigint,
    balance_after bigint,
    -- Whose quota was spent: the period of the monthly share; NULL where there is none.
    monthly_period_end timestamptz,
    ledger_seq bigint,
    usage_type text not null default 'article_generation',
    error_code text,
    error_message text,
    -- How often this key was tried again after a first attempt that moved no tokens.
    retry_count int not null default 0,
    created_at timestamptz not null default now(),
    completed_at timestamptz,
    metadata jsonb not null default '{}',
    -- Since when the charge is pending, which may be long after the record was made: it may have failed first. NULL in a
    -- pending record: since it was made.
    pending_since timestamptz,
    -- A sweeper has taken it until then. If that sweeper dies, the claim runs out, and a later pass takes the record.
    claimed_until timestamptz,
    -- When the sweeper found that there is no article: tokens given away are summed by day.
    written_off_at timestamptz,

    -- The idempotency guard itself.
    constraint idx_token_deduction_idempotency primary key (idempotency_key),
    constraint deduction_status_known
        check (status in ('pending', 'completed', 'failed', 'compensated')),
    constraint deduction_amount_positive
        check (amount >= 1 and retry_count >= 0),
    constraint deduction_charged_is_whole check (
        status not in ('completed', 'compensated')
        or (
            balance_before is not null and balance_after is not null
            and completed_at is not null and ledger_seq is not null
            and balance_before - amount = balance_after and balance_after >= 0
            and monthly_deducted >= 0 and purchased_deducted >= 0
            and monthly_deducted + purchased_deducted = amount
            and error_code is null
        )
    ),
    constraint deduction_uncharged_moved_nothing check (
        status in ('completed', 'compensated')
        or (
            monthly_deducted = 0 and purchased_deducted = 0 and monthly_period_end is null
            and balance_before is null and balance_after is null
            and completed_at is null and ledger_seq is null
            and error_code is not null
        )
    )
);

-- One company's history in the order of its ledger.
create index idx_token_deduction_company on token_deduction_records (company_id, ledger_seq);
-- The sweeper's work list, oldest first: tiny, because a charge never passes through `pending`.
create index idx_token_deduction_status
    on token_deduction_records ((coalesce(pending_since, created_at)), idempotency_key)
    where status = 'pending';
-- "The last minutes" and exports by day: rows arrive in time order, so a BRIN does it for nearly nothing.
create index idx_token_deduction_created on token_deduction_records
    using brin (created_at) with (pages_per_range = 32, autosummarize = on);

-- What was tried and moved no tokens, as it was then (functions/keep_attempt.sql).
--
-- Why: a record tells how its key stands now. When a pending charge is made, or written off, the record forgets why it
-- was pending, and whoever looks a second time reads another past than the first time. Here it stays.
create table token_deduction_attempts (
    id bigint generated always as identity primary key,
    idempotency_key text collate "C" not null,
    at timestamptz not null default clock_timestamp(),
    company_id uuid not null,
    amount bigint not null,
    -- What the record became: `failed` or `pending`.
    status text not null,
    error_code text,
    error_message text,
    retry_count int not null
);
create index idx_token_deduction_attempts_key on token_deduction_attempts (idempotency_key, id);

create table token_usage_logs (
    -- The `ledger_seq` of the movement it logs: one movement can't have two logs.
    id bigint primary key,
    company_id uuid not null,
    article_id uuid,
    -- Positive for a charge, negative for its refund.
    token_amount bigint not null check (token_amount <> 0),
    deduction_record_id uuid not null,
    usage_type text not null,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now()
);
create index idx_token_usage_created on token_usage_logs
    using brin (created_at) with (pages_per_range = 32, autosummarize = on);

create table token_credits (
    idempotency_key text not null,
    company_id uuid not null,
    kind text not null check (kind in ('top_up', 'renewal', 'refund')),
    -- What was given, by bucket.
    monthly_amount bigint not null check (monthly_amount >= 0),
    purchased_amount bigint not null check (purchased_amount >= 0),
    -- Monthly tokens that this renewal or refund let go.
    forfeited_amount bigint not null default 0 check (forfeited_amount >= 0),
    monthly_before bigint not null,
    monthly_after bigint not null check (monthly_after >= 0),
    purchased_before bigint not null,
    purchased_after bigint not null check (purchased_after >= 0),
    period_end_before timestamptz,
    period_end_after timestamptz,
    -- One movement, one position.
    ledger_seq bigint primary key,
    actor text not null,
    reason text,
    created_at timestamptz not null default now(),

    constraint credit_purchased_adds_up check (purchased_before + purchased_amount = purchased_after),
    constraint credit_monthly_adds_up check (
        case kind
            when 'renewal' then monthly_after = monthly_amount and forfeited_amount = monthly_before
            else monthly_before + monthly_amount = monthly_after
        end
    )
);
create index idx_token_credits_company on token_credits (company_id, ledger_seq);
-- A refund has its job's key, and a top-up may have it too: each kind has keys of its own.
create unique index idx_token_credits_key on token_credits (idempotency_key) where kind <> 'refund';
create unique index idx_token_credits_refund on token_credits (idempotency_key) where kind = 'refund';

-- What one company can pay from.
create type company_balance as (
    company_id uuid,
    -- Where its row is: no index is needed to find it again, and the lock keeps it there.
    place tid,
    monthly bigint,
    purchased bigint,
    current_period_end timestamptz
);

-- One result per item of a batch; the fields of deduct_tokens_atomic and two more.
create type deduction_result as (
    item int,                       -- 1-based position in the input
    success boolean,
    idempotent boolean,             -- charged earlier: these are the original figures
    status text,                    -- of the record; NULL where there is none of this request
    error text,                     -- a code; NULL on success
    error_message text,             -- the same for a person
    deduction_record_id uuid,
    amount bigint,
    monthly_deducted bigint,
    purchased_deducted bigint,
    balance_before bigint,
    balance_after bigint,
    retry_count int,
    required bigint,                -- with insufficient_balance
    available bigint,               -- with insufficient_balance
    job_status_error text           -- article_jobs refused the new status; the charge stands
);

-- What is known of a pending record.
create type stale_deduction as (
    idempotency_key text,
    company_id uuid,
    article_id uuid,              -- the record's own, or its job's
    job_id uuid,
    amount bigint,
    pending_since timestamptz,
    -- Whether `articles` has it; NULL: not to be told from what is there.
    article_exists boolean
);
