//! What it shows and says, and what a page may do with it.

use serde_json::{Value, json};

use super::{COMPANY, INSIDE, nothing_went_wrong, opened, pass, settled, until, widget};
use crate::support::pages::{Answer, balance};

#[tokio::test]
async fn another_company_never_sees_the_figures_of_the_last() {
    let (browser, pages) = opened(&widget("")).await;
    until(&browser, "text('available')", "50,500").await;
    pages.set_answer(Answer::Status(404));
    pages.asked();
    browser
        .js("document.querySelector('token-balance').setAttribute('company', '../../x?y#z')")
        .await;
    until(&browser, "text('note')", "No access to this balance").await;
    until(&browser, "text('available')", "–").await;
    assert_eq!(
        pages.asked()[0].company,
        "../../x?y#z",
        "one segment of the path"
    );
    nothing_went_wrong(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn low_is_red_said_once_and_has_a_link_that_a_keyboard_reaches() {
    let (browser, pages) = opened(&widget("upgrade-url=/billing/upgrade warn-below=100")).await;
    until(&browser, "text('available')", "50,500").await;
    settled(&browser).await;
    let focused =
        "document.querySelector('token-balance').shadowRoot.activeElement?.textContent ?? null";
    let said = "root.querySelector('[role=status]').textContent";
    until(&browser, said, "").await;
    browser.press_tab().await;
    until(&browser, focused, Value::Null).await;
    let (color, height) = (
        "getComputedStyle(root.querySelector('[part=available]')).color",
        "document.querySelector('token-balance').offsetHeight",
    );
    let height_before = browser.js(&format!("{INSIDE} return {height}")).await;
    let color_before = browser.js(&format!("{INSIDE} return {color}")).await;

    pages.set_answer(Answer::Balance(balance(99)));
    pass(&browser, &pages, 5000).await;
    until(&browser, said, "Running low 99").await;
    assert_eq!(
        browser.js(&format!("{INSIDE} return {height}")).await,
        height_before,
        "no jump"
    );
    assert_ne!(
        browser.js(&format!("{INSIDE} return {color}")).await,
        color_before
    );
    browser.press_tab().await;
    until(&browser, focused, "Upgrade").await;
    until(&browser, "new URL(link.href).pathname", "/billing/upgrade").await;
    // Another figure is not worth a word, and takes no focus away.
    pages.set_answer(Answer::Balance(balance(98)));
    pass(&browser, &pages, 5000).await;
    until(&browser, "text('available')", "98").await;
    until(&browser, said, "Running low 99").await;
    until(&browser, focused, "Upgrade").await;
    pages.set_answer(Answer::Balance(balance(5000)));
    pass(&browser, &pages, 5000).await;
    until(&browser, said, "Tokens available 5,000").await;
    nothing_went_wrong(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn a_refused_job_gets_a_friendly_message_until_the_balance_suffices() {
    let (browser, pages) = opened(&widget(
        "upgrade-url=javascript:alert(1) text-upgrade='Get more'",
    ))
    .await;
    until(&browser, "text('available')", "50,500").await;
    settled(&browser).await;
    let refuse = |url: &str| {
        format!(
            "document.querySelector('token-balance').showPaymentRequired(
                {{ status: 402, required: 60000, available: 50500, upgrade_url: {url:?} }})"
        )
    };
    for bad in [
        "javascript:alert(1)",
        "data:text/html,x",
        " jAvascript:alert(1)",
        "http://[",
        "vbscript:x",
    ] {
        browser.js(&refuse(bad)).await;
        until(&browser, "link.hasAttribute('href')", false).await;
    }
    browser.js(&refuse("https://shop.example/plans")).await;
    until(
        &browser,
        "text('message')",
        "This needs 60,000 tokens; 50,500 are left.",
    )
    .await;
    until(
        &browser,
        "[link.href, link.textContent]",
        json!(["https://shop.example/plans", "Get more"]),
    )
    .await;
    assert_eq!(
        browser.js("return events.at(-1)[0]").await,
        "payment-required"
    );

    pages.set_answer(Answer::Balance(balance(60_000)));
    pass(&browser, &pages, 5000).await;
    until(&browser, "text('message')", "").await;
    // The attribute's own link is no better.
    pages.set_answer(Answer::Balance(balance(1)));
    pass(&browser, &pages, 5000).await;
    until(&browser, "link.hasAttribute('href')", false).await;
    nothing_went_wrong(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn numbers_are_exact_beyond_what_a_script_can_count() {
    let body =
        widget("lang=zh-TW") + &widget("lang=de text-available=Verfügbar") + &widget("lang=en_US");
    let (browser, pages) = opened(&body).await;
    pages.set_answer(Answer::Text(
        r#"{"monthly":9007199254740993,"purchased": 0,"total":9007199254740993,"held":0,"available":9007199254740993,"period_end":null}"#,
    ));
    browser
        .js("for (const widget of document.querySelectorAll('token-balance')) widget.refresh()")
        .await;
    let figures = "[...document.querySelectorAll('token-balance')].map((widget) =>
        ['label', 'available'].map((part) => widget.shadowRoot.querySelector(`[part=${part}]`).textContent))";
    until(
        &browser,
        figures,
        json!([
            ["可用點數", "9,007,199,254,740,993"],
            ["Verfügbar", "9.007.199.254.740.993"],
            ["Tokens available", "9,007,199,254,740,993"]
        ]),
    )
    .await;
    nothing_went_wrong(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn the_script_may_come_twice_and_a_token_as_a_property() {
    let late = "<token-balance id=late></token-balance><script src=widget/token-balance.js defer></script>";
    let (browser, pages) = opened(late).await;
    pages.set_answer(Answer::For("early", balance(4)));
    browser
        .js(&format!(
            "const widget = document.getElementById('late'); widget.token = 'early';
             widget.setAttribute('company', '{COMPANY}')"
        ))
        .await;
    let available = "document.getElementById('late').shadowRoot.querySelector('b').textContent";
    until(&browser, available, "4").await;
    nothing_went_wrong(&browser).await;
    browser.close().await;
}
