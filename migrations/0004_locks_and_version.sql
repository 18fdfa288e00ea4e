-- What the program keeps for itself: rows to be locked, and the version that it has brought the database to.

-- Why rows instead of advisory locks: anybody who may connect may take any advisory lock, and hold it; a row of this
-- table is locked by our functions only. And advisory locks live in the server's shared memory, one for each key: 60,000
-- single charges in one transaction used it up for the whole server. A row's lock is in the row.
create table token_billing_locks (
    -- Of a key: its hash, from 0 to 65535. -1: whoever changes dead letters. -2: whoever claims stale records.
    slot int primary key
);
insert into token_billing_locks select * from generate_series(-2, 65535);

-- The version of token-billing whose functions these are. Why: an older one's `migrate` must not put its own in their
-- place, and has no other way to tell that they are newer.
create table token_billing_version (
    -- One row.
    is_current boolean primary key default true check (is_current),
    -- Major, minor, patch.
    version int[] not null
);
