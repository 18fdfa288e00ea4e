-- Keys for the HTTP API.
--
-- Why in the database: every process that answers HTTP knows the same keys, and a revoked one is revoked for all.
-- Of a secret only its SHA-256 is here. It has 256 random bits, so that nobody can guess it from that, and no slow hash
-- is needed. Rows are never deleted: the record of what a key did names it.

create table api_keys (
    id uuid primary key,
    -- What people call it, and what stands in `operator_actions`. Two may have the same: a key and the one after it.
    name text not null check (length(name) between 1 and 100 and name = btrim(name)),
    secret_sha256 bytea not null check (length(secret_sha256) = 32),
    scopes text[] not null check (cardinality(scopes) between 1 and 3 and scopes <@ array['read', 'publish', 'operate']),
    -- The only company that it sees. NULL: all.
    company_id uuid,
    created_at timestamptz not null default clock_timestamp(),
    -- To the minute.
    last_used_at timestamptz,
    revoked_at timestamptz
);
