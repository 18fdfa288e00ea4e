-- The three tables that an application usually owns already.
--
-- Why here at all: token-billing must also run on an empty database (tests, demos, new platforms),
-- and must never touch what an application has. So each is created only if it is missing, with just
-- the columns that token-billing reads or writes, and nothing of ours has a foreign key to them:
-- the application stays free to change, partition or archive its own tables.

create table if not exists company_subscriptions (
    company_id uuid primary key,
    monthly_token_quota bigint not null default 0 check (monthly_token_quota >= 0),
    monthly_quota_balance bigint not null default 0 check (monthly_quota_balance >= 0),
    purchased_token_balance bigint not null default 0 check (purchased_token_balance >= 0),
    -- The monthly balance may be spent until this instant; NULL: it never expires.
    current_period_end timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists article_jobs (
    id uuid primary key,
    company_id uuid not null,
    article_id uuid,
    status text not null,
    error_message text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists articles (
    id uuid primary key,
    company_id uuid not null,
    created_at timestamptz not null default now()
);
