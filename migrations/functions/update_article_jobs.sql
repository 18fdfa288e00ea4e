-- Tells article_jobs of new outcomes; a message means failed, none completed. The table is the
-- application's: a CHECK, an enum or a trigger there may refuse us, and that never undoes a charge.
-- Returns the refusals by job id, NULL if there are none. A lock or serialization failure is no
-- refusal: it fails the call as a whole.
create or replace function update_article_jobs(p_job_ids uuid[], p_company_ids uuid[], p_messages text[]) returns jsonb
language plpgsql as $$
declare
    v_ids uuid[];
    v_company_ids uuid[];
    v_places tid[];
    v_completed int;
    v_failed int;
    v_messages text[];
    v_job record;
    v_refusals jsonb;
begin
    -- Locks and updates in one block: locked outside and updated inside of it, each row would cost a
    -- MultiXactId.
    begin
        select array_agg(j.id), array_agg(j.company_id), array_agg(j.place), array_agg(j.message)
        into v_ids, v_company_ids, v_places, v_messages
        from (
            -- A key that was tried twice in one batch: the last new outcome for the job's company stands.
            select distinct on (o.job_id, o.company_id) o.job_id, o.company_id, o.message
            from unnest(p_job_ids, p_company_ids, p_messages) with ordinality as o (job_id, company_id, message, n)
            order by o.job_id, o.company_id, o.n desc
        ) o
        cross join lateral (
            select a.id, a.company_id, a.ctid as place, o.message from article_jobs a
            where a.id = o.job_id and a.company_id = o.company_id for no key update
        ) j;
        if v_ids is null then
            return null;
        end if;
        -- Two statements with literals, so that the column may be an enum of the application's.
        update article_jobs j
        set status = 'completed', error_message = null, updated_at = clock_timestamp()
        from unnest(v_ids, v_places, v_messages) as o (id, place, message)
        where j.ctid = o.place and j.id is not distinct from o.id and o.message is null;
        get diagnostics v_completed = row_count;
        update article_jobs j
        set status = 'failed', error_message = o.message, updated_at = clock_timestamp()
        from unnest(v_ids, v_places, v_messages) as o (id, place, message)
        where j.ctid = o.place and j.id is not distinct from o.id and o.message is not null;
        get diagnostics v_failed = row_count;
        if v_completed + v_failed = cardinality(v_ids) then
            return null;
        end if;
        -- Else a trigger of the application's has moved or kept back a row.
    exception
        when deadlock_detected or serialization_failure or lock_not_available then raise;
        when others then null;
    end;

    -- One by one, so that only those are refused who must be.
    for v_job in select * from unnest(v_ids, v_company_ids, v_messages) as o (id, company_id, message) loop
        begin
            if v_job.message is null then
                update article_jobs
                set status = 'completed', error_message = null, updated_at = clock_timestamp()
                where id = v_job.id and company_id = v_job.company_id;
            else
                update article_jobs
                set status = 'failed', error_message = v_job.message, updated_at = clock_timestamp()
                where id = v_job.id and company_id = v_job.company_id;
            end if;
        exception
            when deadlock_detected or serialization_failure or lock_not_available then raise;
            when others then
                v_refusals := coalesce(v_refusals, '{}')
                    || jsonb_build_object(v_job.id, format('%s (SQLSTATE %s)', sqlerrm, sqlstate));
        end;
    end loop;
    return v_refusals;
end $$;
