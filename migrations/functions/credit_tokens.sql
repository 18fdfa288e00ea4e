-- Top-ups and renewals through one door, so that the ledger can explain every balance.
--
-- Why a function and not an UPDATE in the program: the same lock order and `ledger_seq` as a charge,
-- one idempotency key per credit, before and after beside it, and a program that may call it without
-- being allowed to write balances. If the caller dies before COMMIT nothing happened; after it, the
-- same key answers with the original figures.
--
-- Exactly one of p_purchased and p_monthly. p_monthly SETS the monthly quota and balance until
-- p_period_end; what was left of the old one is forfeited and recorded.
create or replace function credit_tokens(
    p_idempotency_key text, p_company_id uuid, p_purchased bigint, p_monthly bigint, p_period_end timestamptz,
    p_actor text
) returns jsonb
language plpgsql security definer
set search_path from current
as $$
declare
    v_kind constant text := case when p_monthly is null then 'top_up' else 'renewal' end;
    v_company company_subscriptions;
    v_monthly_before bigint;
    v_purchased_before bigint;
    v_credit token_credits;
    v_rows bigint;
    v_idempotent boolean := true;
    v_error text;
begin
    if not is_key(p_idempotency_key) or p_company_id is null or p_actor is null
       or num_nonnulls(p_purchased, p_monthly) <> 1
       or coalesce(p_purchased, 1) < 1 or coalesce(p_monthly, 0) < 0
       or (p_period_end is null) <> (p_monthly is null) then
        return jsonb_build_object('success', false, 'error', 'invalid_request');
    end if;

    perform commit_durably();
    select * into v_company from company_subscriptions
    where company_id = p_company_id for no key update;
    -- The columns are the application's: a NULL is no tokens.
    v_monthly_before := coalesce(v_company.monthly_quota_balance, 0);
    v_purchased_before := coalesce(v_company.purchased_token_balance, 0);
    select * into v_credit from token_credits
    where idempotency_key = p_idempotency_key and kind <> 'refund';

    if v_credit.idempotency_key is not null then
        if (v_credit.company_id, v_credit.kind) is distinct from (p_company_id, v_kind)
           or v_credit.purchased_amount <> coalesce(p_purchased, 0)
           or v_credit.monthly_amount <> coalesce(p_monthly, 0)
           or (v_kind = 'renewal' and v_credit.period_end_after is distinct from p_period_end) then
            v_error := 'idempotency_key_reused';
        end if;
    elsif v_company.company_id is null then
        v_error := 'company_not_found';
    elsif p_period_end <= clock_timestamp() then
        v_error := 'period_end_passed';
    elsif coalesce(p_monthly, v_monthly_before)::numeric + v_purchased_before + coalesce(p_purchased, 0) > 9223372036854775807 then
        v_error := 'balance_too_large';
    end if;
    if v_error is not null then
        return jsonb_build_object('success', false, 'error', v_error);
    end if;

    if v_credit.idempotency_key is null then
        v_idempotent := false;
        insert into token_credits (
            idempotency_key, company_id, kind, monthly_amount, purchased_amount, forfeited_amount,
            monthly_before, monthly_after, purchased_before, purchased_after,
            period_end_before, period_end_after, ledger_seq, actor, created_at)
        values (
            p_idempotency_key, p_company_id, v_kind, coalesce(p_monthly, 0), coalesce(p_purchased, 0),
            case v_kind when 'renewal' then v_monthly_before else 0 end,
            v_monthly_before, coalesce(p_monthly, v_monthly_before),
            v_purchased_before, v_purchased_before + coalesce(p_purchased, 0),
            v_company.current_period_end, coalesce(p_period_end, v_company.current_period_end),
            nextval('token_ledger_seq'), p_actor, clock_timestamp())
        -- The same key for another company, at this moment: that one won.
        on conflict (idempotency_key) where kind <> 'refund' do nothing
        returning * into v_credit;
        if v_credit.idempotency_key is null then
            return jsonb_build_object('success', false, 'error', 'idempotency_key_reused');
        end if;
        update company_subscriptions
        set monthly_token_quota = coalesce(p_monthly, monthly_token_quota),
            monthly_quota_balance = v_credit.monthly_after,
            purchased_token_balance = v_credit.purchased_after,
            current_period_end = v_credit.period_end_after,
            updated_at = clock_timestamp()
        where company_id = p_company_id;
        get diagnostics v_rows = row_count;
        perform refuse_unless_one_row(v_rows, p_company_id);
        insert into operator_actions (actor, action, subject, details)
        values (p_actor, 'credit', p_company_id::text, to_jsonb(v_credit));
    end if;

    return jsonb_build_object('success', true, 'idempotent', v_idempotent, 'error', null)
        || to_jsonb(v_credit);
end $$;
