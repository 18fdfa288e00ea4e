-- Adds a key for the HTTP API, and records who did it. The secret itself never comes here.
create or replace function add_api_key(
    p_id uuid, p_name text, p_secret_sha256 bytea, p_scopes text[], p_company_id uuid, p_actor text
) returns void
language plpgsql security definer
set search_path from current
as $$
begin
    insert into api_keys (id, name, secret_sha256, scopes, company_id)
    values (p_id, p_name, p_secret_sha256, p_scopes, p_company_id);
    perform record_operator_action(p_actor, 'add_key', p_id::text, null, jsonb_build_object(
        'name', p_name, 'scopes', p_scopes, 'company_id', p_company_id));
end $$;
