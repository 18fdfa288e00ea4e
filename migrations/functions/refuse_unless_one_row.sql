-- For an update of one company's balances: undoes all of it if it wrote another number of rows.
create or replace function refuse_unless_one_row(p_rows bigint, p_company_id uuid) returns void
language plpgsql as $$
begin
    if p_rows = 0 then
        raise exception 'a trigger on company_subscriptions kept back the change of company %', p_company_id;
    elsif p_rows > 1 then
        raise exception 'company_subscriptions has more than one row for company %; nothing was changed', p_company_id
            using errcode = 'cardinality_violation';
    end if;
end $$;
