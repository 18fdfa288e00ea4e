-- Sweeping where `articles` has ids of another type, or doesn't exist.
--
-- Why: the table is the application's. With `articles.id bigint` the comparison with a record's article, a UUID,
-- failed each sweep, even where `sweeper.article_exists_query` asks elsewhere. Such a table tells nothing, like an
-- empty one: whether the article exists is not known from it.

-- As in 0007: pending longer than p_stale_after by this database's clock and in nobody's hands, oldest first, with what
-- `articles` says of them; those after (p_after, p_after_key).
create or replace function stale_deductions(
    p_stale_after interval, p_after timestamptz, p_after_key text, p_limit int
) returns setof stale_deduction
language plpgsql stable security definer as $$
declare
    v_stale stale_deduction[];
    v_articles boolean := exists (
        select from pg_attribute
        where attrelid = to_regclass('articles') and attname = 'id' and atttypid = 'uuid'::regtype and not attisdropped);
begin
    v_stale := array(
        select (r.idempotency_key, r.company_id, coalesce(r.article_id, j.article_id), k.job_id, r.amount,
                coalesce(r.pending_since, r.created_at), null)::stale_deduction
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
        limit p_limit);
    -- A statement is planned when it is first reached: what isn't there is named only where it is.
    if v_articles then
        v_articles := exists (select from articles);
    end if;
    if v_articles then
        return query
        select s.idempotency_key, s.company_id, s.article_id, s.job_id, s.amount, s.pending_since,
               case when s.article_id is not null then a.id is not null end
        from unnest(v_stale) with ordinality s
        -- One by one through the index, never all articles into a hash.
        left join lateral (select a.id from articles a where a.id = s.article_id limit 1) a on true
        order by s.ordinality;
    else
        return query select * from unnest(v_stale);
    end if;
end $$;

do $$
declare
    v_function constant text := 'stale_deductions(interval, timestamptz, text, int)';
begin
    execute format('alter function %s set search_path = %I, pg_temp', v_function, current_schema());
    execute format('alter function %s set plan_cache_mode = force_generic_plan', v_function);
    execute format('alter function %s set enable_seqscan = off', v_function);
    execute format('alter function %s set jit = off', v_function);
end $$;
