-- Room in the pages of article_jobs, where this very `migrate` has made it.
--
-- Why: each job's row is updated when it is charged. Where the new version fits into its page no index is written (a
-- HOT update); in pages filled to the brim 4 in 100 did, with this room 45, and charging cost a tenth less. An
-- application's own table stays as it is.

do $$
begin
    -- Made in this transaction, or in a savepoint of it.
    if exists (
        select from pg_class
        where oid = 'article_jobs'::regclass and xmin::text::bigint >= pg_current_xact_id()::xid::text::bigint
    ) then
        alter table article_jobs set (fillfactor = 70);
    end if;
end $$;
