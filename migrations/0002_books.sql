-- The books: what was charged, credited and used, and who changed it by hand.
--
-- Why these shapes:
-- * Legal states are CHECK constraints: whatever code runs, a row that contradicts itself can't exist.
-- * `ledger_seq` orders every movement of one company. It is drawn while the company's row is locked,
--   so per company it is the order in which the balance really changed; clocks can't give that.
-- * Every index of `token_deduction_records` is written on the hot path. Each is the cheapest kind
--   that serves its queries; measured, a full b-tree on `id` alone cost a fifth of the throughput,
--   so the idempotency key is the primary key and `id` is a plain column.

create sequence token_ledger_seq as bigint;

create table token_deduction_records (
    -- The job's UUID in lower case, or any text that another caller of the functions uses.
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
    -- How often this key was tried again after a first attempt that moved no money.
    retry_count int not null default 0,
    created_at timestamptz not null default now(),
    completed_at timestamptz,
    metadata jsonb not null default '{}',

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

-- One company's history in the order of its books.
create index idx_token_deduction_company on token_deduction_records (company_id, ledger_seq);
-- The sweeper's work list, oldest first: tiny, because a charge never passes through `pending`.
create index idx_token_deduction_status on token_deduction_records (created_at) where status = 'pending';
-- "The last minutes" and exports by day: rows arrive in time order, so a BRIN does it for nearly nothing.
create index idx_token_deduction_created on token_deduction_records
    using brin (created_at) with (pages_per_range = 32, autosummarize = on);

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
    idempotency_key text primary key,
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
    ledger_seq bigint not null unique,
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

-- What people did by hand: who, when, what, to which, why.
create table operator_actions (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text not null,
    action text not null,
    subject text not null,
    reason text,
    details jsonb not null default '{}'
);
create index idx_operator_actions_subject on operator_actions (subject, id);
