-- The running balance of "charge what can be paid, skip what can't": an ordinary running sum would stop at the first item
-- too large, and refuse the smaller ones behind it. What is held for other jobs when an item's turn comes is not for it.
create or replace function tokens_left_beside_step(p_left bigint, p_amount bigint, p_opening bigint, p_held bigint)
returns bigint
language plpgsql immutable parallel safe as $$
begin
    p_left := coalesce(p_left, p_opening);
    return case when p_amount <= p_left - p_held then p_left - p_amount else p_left end;
end $$;

create or replace aggregate tokens_left_beside(p_amount bigint, p_opening bigint, p_held bigint) (
    sfunc = tokens_left_beside_step,
    stype = bigint
);
