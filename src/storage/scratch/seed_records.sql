-- Fills a scratch ledger with completed records and their usage logs.
--
-- The indexes of the records are taken away and built again: into a table without them ten million rows go in a few
-- minutes. Built, they are packed; one that grew with keys in no order has a third of its pages empty, so they are built
-- with so much left free.
create procedure seed_records(
    p_records bigint, p_keys_in_time_order boolean, p_company_ids uuid[], p_tokens bigint
)
language plpgsql as $$
declare
    v_companies constant bigint := cardinality(p_company_ids);
    v_index record;
begin
    -- The partial ones would have none of these rows.
    create temporary table rebuilt as
    select k.relname as name, pg_get_indexdef(i.indexrelid) as definition, c.conname is not null as is_key
    from pg_index i
    join pg_class k on k.oid = i.indexrelid
    join pg_am a on a.oid = k.relam and a.amname = 'btree'
    left join pg_constraint c on c.conindid = i.indexrelid and c.contype = 'p'
    where i.indrelid = 'token_deduction_records'::regclass and i.indpred is null;
    for v_index in select * from rebuilt loop
        if v_index.is_key then
            execute format('alter table token_deduction_records drop constraint %I', v_index.name);
        else
            execute format('drop index %I', v_index.name);
        end if;
    end loop;

    insert into token_deduction_records (
        idempotency_key, company_id, article_id, amount, status, purchased_deducted, balance_before, balance_after,
        ledger_seq, created_at, completed_at, metadata)
    select case
               -- A UUIDv7 of that moment.
               when p_keys_in_time_order then
                   substr(t.ms, 1, 8) || '-' || substr(t.ms, 9) || '-7' || substr(gen_random_uuid()::text, 16)
               else gen_random_uuid()::text
           end,
           p_company_ids[1 + abs(hashint8(n)::bigint) % v_companies], gen_random_uuid(), p_tokens, 'completed',
           p_tokens, (p_records - n + 1) * p_tokens, (p_records - n) * p_tokens, n, t.at, t.at,
           '{"model": "large-3", "language": "en", "words": 1200}'
    from generate_series(1, p_records) n
    cross join lateral (
        select at, lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') as ms
        from (select now() - (p_records - n) * interval '5 ms' as at) t
    ) t;
    insert into token_usage_logs (
        id, company_id, article_id, token_amount, deduction_record_id, usage_type, metadata, created_at)
    select ledger_seq, company_id, article_id, amount, id, usage_type, metadata, created_at
    from token_deduction_records order by ledger_seq;
    perform setval('token_ledger_seq', p_records);

    for v_index in select * from rebuilt loop
        execute v_index.definition || format(
            ' with (fillfactor = %s)', case when v_index.is_key and p_keys_in_time_order then 90 else 67 end);
        if v_index.is_key then
            execute format(
                'alter table token_deduction_records add constraint %I primary key using index %I',
                v_index.name, v_index.name);
        end if;
        -- What comes from now on splits pages as ever.
        execute format('alter index %I reset (fillfactor)', v_index.name);
    end loop;
    drop table rebuilt;
end $$;
