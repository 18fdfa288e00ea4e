//! Each right that is missing or too much is found.

use crate::support::role::{TestRole, healthy};

#[tokio::test]
async fn a_right_that_is_missing_is_named_as_it_is_granted() {
    let (site, role) = healthy().await;
    let name = role.quoted();
    for (right, said) in [
        (
            "execute on function charge_pending_deductions(text[])",
            "execute on function charge_pending_deductions(text[])",
        ),
        (
            "select (state) on dead_letters",
            "select (id, state, archived_at) on dead_letters",
        ),
    ] {
        site.db.execute(format!("revoke {right} from {name}")).await;
        let diagnosis = site.doctor().await;
        let (finding, fix) = diagnosis.only_failure("rights_enough");
        assert!(
            finding.ends_with(&format!("lacks for serve: {said}")),
            "{finding}"
        );
        assert!(fix.contains("migrate --print-grants"), "{fix}");
        site.db.execute(format!("grant {right} to {name}")).await;
    }
}

#[tokio::test]
async fn a_right_to_write_past_the_functions_is_too_much() {
    let (site, role) = healthy().await;
    let name = role.quoted();
    for right in [
        "update (purchased_token_balance) on company_subscriptions",
        "insert on token_deduction_records",
        "delete on token_usage_logs",
        "truncate on token_credits",
        "trigger on article_jobs",
        "update on sequence token_ledger_seq",
        "create on schema public",
        "execute on function credit_tokens(text,uuid,bigint,bigint,timestamptz,text)",
    ] {
        site.db.execute(format!("grant {right} to {name}")).await;
        let diagnosis = site.doctor().await;
        let (finding, fix) = diagnosis.only_failure("rights_no_more");
        let object = right.rsplit(" on ").next().expect("on");
        let object = object.trim_start_matches("sequence ");
        assert!(finding.contains(object), "{right}: {finding}");
        assert!(fix.contains("revoke these"), "{fix}");
        site.db.execute(format!("revoke {right} from {name}")).await;
    }
    assert!(site.doctor().await.with("failed").is_empty());
}

#[tokio::test]
async fn a_role_that_can_give_itself_any_right_is_too_much() {
    let (site, role) = healthy().await;
    let name = role.quoted();
    for (attribute, said) in [
        ("superuser", "a superuser"),
        ("createrole", "allowed to create roles"),
    ] {
        let alter = async |no: &str| {
            let sql = format!("alter role {name} {no}{attribute}");
            site.db.execute(sql).await;
        };
        alter("").await;
        let diagnosis = site.doctor().await;
        let (finding, fix) = diagnosis.only_failure("rights_no_more");
        assert!(finding.contains(said), "{finding}");
        assert!(fix.contains("migrate --print-grants"), "{fix}");
        alter("no").await;
    }
    // A member of the owner can become the owner.
    let owner = TestRole::create(&site).await;
    let owners = owner.quoted();
    site.db
        .execute(format!(
            "alter table token_credits owner to {owners}; grant {owners} to {name}"
        ))
        .await;
    let diagnosis = site.doctor().await;
    let (finding, _) = diagnosis.only_failure("rights_no_more");
    assert!(finding.contains("it owns token_credits"), "{finding}");
    // Else the table would go with the role.
    site.db
        .execute("alter table token_credits owner to current_user")
        .await;
}

#[tokio::test]
async fn tables_that_the_role_cannot_see_are_not_taken_for_missing() {
    let (site, role) = healthy().await;
    let name = role.quoted();
    site.db
        .execute(format!(
            "revoke usage on schema public from public; revoke usage on schema public from {name}"
        ))
        .await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("rights_enough");
    assert!(finding.ends_with("usage on schema public"), "{finding}");
    assert!(fix.contains("migrate --print-grants"), "{fix}");
    for check in ["migrations", "functions", "rights_no_more"] {
        let why = diagnosis.finding(check);
        assert_eq!(why, "not checked: there is no usage on schema public");
    }
}
