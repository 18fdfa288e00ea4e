-- Credits and refunds, for databases that are not ours.
--
-- As in 0004 and 0006 (which say why neither can happen twice, nor half), and now:
--   * A refund has a key of its own kind (0008 has the indexes). A top-up whose key was a job's id took that job's
--     place in `token_credits`, and the job could never be refunded.
--   * A company with two rows is an error, and nothing is credited: each row would have got the tokens.
--   * A balance that is NULL is no tokens; keys and commits as in 0012.

-- For an update of one company's balances: undoes all of it if it wrote another number of rows.
create function refuse_unless_one_row(p_rows bigint, p_company_id uuid) returns void
language plpgsql as $$
begin
    if p_rows = 0 then
        raise exception 'a trigger on company_subscriptions kept back the change of company %', p_company_id;
    elsif p_rows > 1 then
        raise exception 'company_subscriptions has more than one row for company %; nothing was changed', p_company_id
            using errcode = 'cardinality_violation';
    end if;
end $$;

-- Exactly one of p_purchased and p_monthly. p_monthly SETS the monthly quota and balance until
-- p_period_end; what was left of the old one is forfeited and recorded.
create or replace function credit_tokens(
    p_idempotency_key text, p_company_id uuid, p_purchased bigint, p_monthly bigint, p_period_end timestamptz,
    p_actor text
) returns jsonb
language plpgsql security definer as $$
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

-- p_expired_monthly says what becomes of monthly tokens whose period is over: 'forfeit', or 'purchased' to
-- give as many purchased ones.
create or replace function refund_tokens(
    p_idempotency_key text, p_expired_monthly text, p_actor text, p_reason text
) returns jsonb
language plpgsql security definer as $$
declare
    -- A record of before canonical keys may still have a spelling of its own (0008): it is called by that.
    v_key constant text := case
        when exists (select from token_deduction_records where idempotency_key = p_idempotency_key collate "C")
            then p_idempotency_key
        else canonical_key(p_idempotency_key) end;
    v_record token_deduction_records;
    v_company company_subscriptions;
    v_monthly_before bigint;
    v_purchased_before bigint;
    v_credit token_credits;
    v_rows bigint;
    v_idempotent boolean;
    v_monthly bigint := 0;
    v_purchased bigint;
    v_forfeited bigint := 0;
begin
    if v_key is null or p_actor is null or coalesce(btrim(p_reason), '') = ''
       or p_expired_monthly is null or p_expired_monthly not in ('forfeit', 'purchased') then
        return jsonb_build_object('success', false, 'error', 'invalid_request');
    end if;

    -- Whose it is must be known before anything is locked. A record that is charged stays with its company.
    select * into v_record from token_deduction_records where idempotency_key = v_key;
    if v_record.status is null then
        return jsonb_build_object('success', false, 'error', 'not_found');
    elsif v_record.status not in ('completed', 'compensated') then
        return jsonb_build_object('success', false, 'error', 'not_charged', 'status', v_record.status);
    end if;
    perform commit_durably();
    select * into v_company from company_subscriptions
    where company_id = v_record.company_id for no key update;
    v_monthly_before := coalesce(v_company.monthly_quota_balance, 0);
    v_purchased_before := coalesce(v_company.purchased_token_balance, 0);
    -- In a statement of its own, so that the look sees all that the lock's previous holder committed.
    select * into strict v_record from token_deduction_records
    where idempotency_key = v_key for no key update;
    select * into v_credit from token_credits where idempotency_key = v_key and kind = 'refund';

    v_idempotent := v_record.status = 'compensated';
    if v_idempotent then
        if v_credit.kind is null then
            -- Somebody set the status by hand; no tokens were given back here.
            return jsonb_build_object('success', false, 'error', 'compensated_elsewhere');
        end if;
    elsif v_company.company_id is null then
        return jsonb_build_object('success', false, 'error', 'company_not_found');
    else
        v_purchased := v_record.purchased_deducted;
        if v_record.monthly_period_end is not distinct from v_company.current_period_end
           and coalesce(v_company.current_period_end > clock_timestamp(), true) then
            v_monthly := v_record.monthly_deducted;
        elsif p_expired_monthly = 'purchased' then
            v_purchased := v_purchased + v_record.monthly_deducted;
        else
            v_forfeited := v_record.monthly_deducted;
        end if;
        if v_monthly_before::numeric + v_purchased_before + v_monthly + v_purchased > 9223372036854775807 then
            return jsonb_build_object('success', false, 'error', 'balance_too_large');
        end if;

        insert into token_credits (
            idempotency_key, company_id, kind, monthly_amount, purchased_amount, forfeited_amount,
            monthly_before, monthly_after, purchased_before, purchased_after,
            period_end_before, period_end_after, ledger_seq, actor, reason, created_at)
        values (
            v_key, v_record.company_id, 'refund', v_monthly, v_purchased, v_forfeited,
            v_monthly_before, v_monthly_before + v_monthly, v_purchased_before, v_purchased_before + v_purchased,
            v_company.current_period_end, v_company.current_period_end,
            nextval('token_ledger_seq'), p_actor, p_reason, clock_timestamp())
        returning * into v_credit;
        update token_deduction_records set status = 'compensated' where idempotency_key = v_key;
        insert into token_usage_logs (
            id, company_id, article_id, token_amount, deduction_record_id, usage_type, metadata, created_at)
        -- Like the charge's own log, so that the two sum to zero by whatever one groups.
        values (
            v_credit.ledger_seq, v_record.company_id, v_record.article_id, -v_record.amount, v_record.id,
            v_record.usage_type, v_record.metadata, v_credit.created_at);
        update company_subscriptions
        set monthly_quota_balance = v_credit.monthly_after,
            purchased_token_balance = v_credit.purchased_after,
            updated_at = v_credit.created_at
        where company_id = v_record.company_id;
        get diagnostics v_rows = row_count;
        perform refuse_unless_one_row(v_rows, v_record.company_id);
        insert into operator_actions (at, actor, action, subject, reason, details)
        values (v_credit.created_at, p_actor, 'refund', v_key, p_reason, to_jsonb(v_credit));
    end if;

    return jsonb_build_object(
            'success', true, 'idempotent', v_idempotent, 'error', null,
            'deduction_record_id', v_record.id, 'amount', v_record.amount,
            'monthly_deducted', v_record.monthly_deducted, 'purchased_deducted', v_record.purchased_deducted,
            'charged_at', v_record.completed_at)
        || to_jsonb(v_credit);
end $$;

do $$
declare
    v_function text;
begin
    foreach v_function in array array[
        'credit_tokens(text, uuid, bigint, bigint, timestamptz, text)',
        'refund_tokens(text, text, text, text)'
    ] loop
        execute format('alter function %s set search_path = %I, pg_temp', v_function, current_schema());
    end loop;
end $$;
revoke execute on function refuse_unless_one_row(bigint, uuid) from public;
