-- Refunds through one door: completed → compensated, the tokens back to the buckets they came from.
--
-- Why it can't happen twice, nor half:
--   * The company's row is locked before the record is looked at. Whoever charges or refunds this job waits
--     there, and then sees a compensated record: a refunded job is never charged again.
--   * The refund is a row of `token_credits` under the job's own key. Record, credit, usage log, balance and
--     audit trail are written in one transaction. If the caller dies before COMMIT nothing happened; after
--     it, everything did, and the same call answers with the original figures.
--
-- The record keeps the balances of its charge; those of the refund stand in its credit. article_jobs is left
-- alone: the article was written whoever pays for it, and what its status should be then is for the
-- application to say.
--
-- p_expired_monthly says what becomes of monthly tokens whose period is over: 'forfeit', or 'purchased' to
-- give as many purchased ones.
create or replace function refund_tokens(
    p_idempotency_key text, p_expired_monthly text, p_actor text, p_reason text
) returns jsonb
language plpgsql security definer
set search_path from current
as $$
declare
    v_key constant text := canonical_key(p_idempotency_key);
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
