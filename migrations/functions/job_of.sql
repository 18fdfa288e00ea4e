-- The job of a key; NULL: the key is no job's id.
create or replace function job_of(p_idempotency_key text) returns uuid
language sql immutable parallel safe as $$
    select case when p_idempotency_key ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then p_idempotency_key::uuid end
$$;
