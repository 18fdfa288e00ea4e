-- Ends the open hold of a job, if there is one: its tokens may pay for other jobs. With a company: only if it is that one's.
-- No lock on the company is needed: a charge that still counts the hold leaves more tokens alone than it must.
create or replace function release_hold(p_job_id uuid, p_company_id uuid) returns boolean
language plpgsql security definer
set search_path from current
as $$
begin
    perform commit_durably();
    update token_holds h set status = 'released', reason = 'released', closed_at = clock_timestamp()
    where h.job_id = p_job_id and h.status = 'open' and (p_company_id is null or h.company_id = p_company_id);
    return found;
end $$;
