-- What this transaction commits is on disk when COMMIT returns, whatever `synchronous_commit` the server, the database,
-- the role or the caller has set: the worker acks the event then, and nobody will send it again. `remote_apply` promises
-- more and stays. Held to the end of the transaction, so also when the caller is any SQL client's.
create or replace function commit_durably() returns void
language plpgsql as $$
begin
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);
    end if;
end $$;
