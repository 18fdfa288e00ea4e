-- Marks as resolved what of these (NULL: of all) the ledger has answered meanwhile: the job was charged in whatever way,
-- or written off. Returns how many.
create or replace function resolve_dead_letters(p_ids bigint[]) returns bigint
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_resolved bigint;
begin
    -- Looked at before the lock is asked for: ordinarily there is nothing to do.
    if p_ids is null then
        p_ids := array(
            select d.id from dead_letters_with_charges d
            where d.state <> 'resolved' and d.job_id is not null and d.is_resolvable);
    end if;
    if cardinality(p_ids) = 0 then
        return 0;
    end if;
    perform lock_dead_letters();
    update dead_letters
    set state = 'resolved', resolved_at = clock_timestamp(), claimed_until = null
    where id in (
        select d.id from dead_letters_with_charges d
        where d.id = any (p_ids) and d.state <> 'resolved' and d.is_resolvable);
    get diagnostics v_resolved = row_count;
    return v_resolved;
end $$;
