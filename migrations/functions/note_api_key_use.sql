-- Notes that a key was used, at most once a minute.
create or replace function note_api_key_use(p_id uuid) returns void
language sql security definer
set search_path from current
as $$
    update api_keys set last_used_at = clock_timestamp()
    where id = p_id and (last_used_at is null or last_used_at < clock_timestamp() - interval '1 minute')
$$;
