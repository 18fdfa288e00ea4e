-- canonical_key() of each, in order.
create or replace function canonical_keys(p_keys text[]) returns text[]
language sql immutable parallel safe as $$
    select coalesce(array_agg(canonical_key(k.key) order by k.n), '{}') from unnest(p_keys) with ordinality as k (key, n)
$$;
