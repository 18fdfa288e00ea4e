-- Whether a text may be a key at all: of bounded size (an index has to hold it), and without control characters,
-- which a person can neither see nor type.
create or replace function is_key(p_key text) returns boolean
language sql immutable parallel safe as $$
    select coalesce(octet_length(p_key) between 1 and 1024 and p_key collate "C" !~ '[[:cntrl:]]', false)
$$;
