-- Articles where the application's table is another one.
--
-- Why: with `articles.id bigint` the comparison with a record's article, a UUID, failed each sweep, even where
-- `sweeper.article_exists_query` asks elsewhere, and each `show`. Such a table tells nothing, like an empty one.

-- Whether `articles` has it, and since when. NULL: not to be told from what is there (no article is named, there is no
-- such table, its ids are no UUIDs, or it is empty: it may be that nobody fills it).
create function find_article(p_article_id uuid, out is_there boolean, out created_at timestamptz)
language plpgsql stable as $$
begin
    -- A statement is planned when it is first reached: what isn't there is named only where it is.
    if p_article_id is null or not exists (
        select from pg_attribute a join pg_type t on t.oid = a.atttypid
        where a.attrelid = to_regclass('articles') and a.attname = 'id' and not a.attisdropped
          and 'uuid'::regtype in (t.oid, t.typbasetype)
    ) then
        return;
    end if;
    is_there := exists (select from articles a where a.id = p_article_id);
    if not is_there and not exists (select from articles) then
        is_there := null;
    elsif is_there and exists (
        select from pg_attribute where attrelid = to_regclass('articles') and attname = 'created_at' and not attisdropped
    ) then
        created_at := (select a.created_at from articles a where a.id = p_article_id limit 1);
    end if;
end $$;
revoke execute on function find_article(uuid) from public;

-- As in 0007: pending longer than p_stale_after by this database's clock and in nobody's hands, oldest first, with what
-- `articles` says of them; those after (p_after, p_after_key).
create or replace function stale_deductions(
    p_stale_after interval, p_after timestamptz, p_after_key text, p_limit int
) returns setof stale_deduction
language sql stable security definer as $$
    select r.idempotency_key, r.company_id, r.article_id, r.job_id, r.amount, r.pending_since, f.is_there
    from (
        select r.idempotency_key, r.company_id, coalesce(r.article_id, j.article_id) as article_id, k.job_id,
               r.amount, coalesce(r.pending_since, r.created_at) as pending_since
        from token_deduction_records r
        cross join lateral (select job_of(r.idempotency_key) as job_id) k
        left join lateral (
            select j.article_id from article_jobs j
            where j.id = k.job_id and j.company_id = r.company_id offset 0
        ) j on true
        where r.status = 'pending'
          and coalesce(r.pending_since, r.created_at) <= clock_timestamp() - p_stale_after
          and (coalesce(r.pending_since, r.created_at), r.idempotency_key)
              > (coalesce(p_after, '-infinity'), coalesce(p_after_key, '') collate "C")
          and (r.claimed_until is null or r.claimed_until <= clock_timestamp())
        order by coalesce(r.pending_since, r.created_at), r.idempotency_key
        limit p_limit
    ) r
    cross join lateral find_article(r.article_id) f
    order by r.pending_since, r.idempotency_key
$$;

do $$
declare
    v_function constant text := 'stale_deductions(interval, timestamptz, text, int)';
begin
    execute format('alter function %s set search_path = %I, pg_temp', v_function, current_schema());
    execute format('alter function %s set enable_seqscan = off', v_function);
    execute format('alter function %s set jit = off', v_function);
end $$;
