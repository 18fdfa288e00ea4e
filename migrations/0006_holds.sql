-- Tokens held for jobs that have begun, so that a job which may start can also be paid.
--
-- Why a table and not a lower balance: a hold moves no tokens. The ledger and the balances stay what was credited and
-- charged; a hold only makes the charges of other jobs leave so much alone, and it ends by itself.

create table token_holds (
    job_id uuid primary key,
    company_id uuid not null,
    amount bigint not null check (amount >= 1),
    status text not null default 'open' check (status in ('open', 'released', 'charged')),
    created_at timestamptz not null default clock_timestamp(),
    -- From then on it counts no more, whether or not the sweeper has closed it.
    expires_at timestamptz not null,
    closed_at timestamptz,
    -- Why it was released: `released` (asked for), `insufficient_balance`, `article_not_found`, `expired`, or
    -- `event_missing`: expired, and though the article is there no event came.
    reason text,

    constraint hold_closed_has_time check ((status = 'open') = (closed_at is null)),
    constraint hold_released_has_reason check ((status = 'released') = (reason is not null))
)
-- While nothing is held, each charge steps over the entries of holds that were closed since the last VACUUM: 8 ns each,
-- and by default up to a fifth of all holds. The second, because VACUUM skips indexes when few pages have changed.
with (autovacuum_vacuum_scale_factor = 0.01, vacuum_index_cleanup = on);
-- What is held of a company; and, where nothing is held, a look that costs nothing.
create index idx_token_holds_open on token_holds (company_id) where status = 'open';
-- What the sweeper has to close.
create index idx_token_holds_expiry on token_holds (expires_at) where status = 'open';
