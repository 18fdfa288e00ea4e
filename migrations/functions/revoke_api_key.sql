-- Revokes a key for the HTTP API, once, and records who did it. NULL: there is no such key; else since when it is revoked.
create or replace function revoke_api_key(p_id uuid, p_actor text) returns timestamptz
language plpgsql security definer
set search_path from current
as $$
declare
    v_key api_keys;
begin
    select * into v_key from api_keys where id = p_id for no key update;
    if v_key.id is null or v_key.revoked_at is not null then
        return v_key.revoked_at;
    end if;
    update api_keys set revoked_at = clock_timestamp() where id = p_id returning * into v_key;
    perform record_operator_action(p_actor, 'revoke_key', p_id::text, null, jsonb_build_object('name', v_key.name));
    return v_key.revoked_at;
end $$;
