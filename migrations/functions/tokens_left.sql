-- For functions of the version before this one, which may be under way while it is rolled out; the next version drops it.
--
-- The running balance of "charge what can be paid, skip what can't": an ordinary running sum would
-- stop at the first item too large, and refuse the smaller ones behind it.
create or replace function tokens_left_step(p_left bigint, p_amount bigint, p_opening bigint) returns bigint
language plpgsql immutable parallel safe as $$
begin
    p_left := coalesce(p_left, p_opening);
    return case when p_amount <= p_left then p_left - p_amount else p_left end;
end $$;

create or replace aggregate tokens_left(p_amount bigint, p_opening bigint) (
    sfunc = tokens_left_step,
    stype = bigint
);
