//! `<token-balance>` on a page of somebody's application, in a real browser: when it asks, and with which token.

mod shown;

use serde_json::{Value, json};
use token_billing::config::Upgrade;

use crate::support::browser::{Browser, Reader};
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::pages::{Answer, Pages, balance};

const COMPANY: &str = "3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90";
/// What is in the first widget.
const INSIDE: &str = "const root = document.querySelector('token-balance').shadowRoot;
    const text = (part) => root.querySelector(`[part=${part}]`)?.textContent;
    const link = root.querySelector('a');";

async fn opened(body: &str) -> (Browser, Pages) {
    let pages = Pages::serve(&Upgrade::default()).await;
    pages.set_page_with_clock(body);
    let browser = Browser::open().await;
    browser.show(&pages.url("/page"), Reader::DESKTOP).await;
    (browser, pages)
}

fn widget(attributes: &str) -> String {
    format!("<token-balance company={COMPANY} {attributes}></token-balance>")
}

async fn until(browser: &Browser, expression: &str, wanted: impl Into<Value>) {
    let script = format!("{INSIDE} return {expression}");
    browser.until(&script, wanted.into()).await;
}

/// The delays, in ms, of what the page has planned.
async fn planned(browser: &Browser) -> Vec<f64> {
    let delays = browser
        .js("return [...timers.values()].map((timer) => timer.ms)")
        .await;
    serde_json::from_value(delays).expect("numbers")
}

/// Turns the clock up to what is planned within so many ms, and waits until all that is settled.
async fn pass(browser: &Browser, pages: &Pages, ms: u32) {
    let before = pages.times_asked();
    browser.js(&format!("pass({ms})")).await;
    let asked = async || pages.times_asked();
    eventually("it asks again", PATIENCE, asked, |asked| {
        *asked == before + 1
    })
    .await;
    settled(browser).await;
}

/// While it waits for an answer, all that is planned is to give up after 10 s.
async fn settled(browser: &Browser) {
    let delays = async || planned(browser).await;
    eventually("it has its answer", PATIENCE, delays, |delays| {
        delays.len() == 1 && delays[0] != 10_000.0
    })
    .await;
}

async fn nothing_went_wrong(browser: &Browser) {
    assert_eq!(browser.js("return problems").await, json!([]));
}

#[tokio::test]
async fn by_the_real_clock_it_asks_again_and_again() {
    let pages = Pages::serve(&Upgrade::default()).await;
    pages.set_page(&widget("refresh=1"));
    let browser = Browser::open().await;
    browser.show(&pages.url("/page"), Reader::DESKTOP).await;
    let asked = async || pages.times_asked();
    eventually("the third request", PATIENCE, asked, |asked| *asked >= 3).await;
    browser.close().await;
}

#[tokio::test]
async fn it_asks_every_five_seconds_and_tells_what_changed() {
    let (browser, pages) = opened(&widget("token=portal")).await;
    until(&browser, "text('available')", "50,500").await;
    settled(&browser).await;
    assert_eq!(planned(&browser).await, [5000.0]);
    let asked = pages.asked();
    assert_eq!(asked.len(), 1, "one request: {asked:?}");
    assert_eq!(asked[0].company, COMPANY);
    assert_eq!(asked[0].authorization, "Bearer portal");

    browser
        .js(&format!("{INSIDE} root.querySelector('b').selected = true"))
        .await;
    pass(&browser, &pages, 5000).await;
    // What is the same is not drawn again.
    until(&browser, "root.querySelector('b').selected", true).await;
    pages.set_answer(Answer::Balance(balance(50_000)));
    pass(&browser, &pages, 5000).await;
    until(&browser, "text('available')", "50,000").await;
    let changes = browser
        .js("return events.map(([type, detail]) => [type, detail.available])")
        .await;
    assert_eq!(
        changes,
        json!([["balance-changed", 50_500], ["balance-changed", 50_000]])
    );
    nothing_went_wrong(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn it_rests_in_a_hidden_tab_and_asks_at_once_when_shown() {
    let (browser, pages) = opened(&widget("refresh=2")).await;
    until(&browser, "text('available')", "50,500").await;
    settled(&browser).await;
    assert_eq!(planned(&browser).await, [2000.0]);
    let hide = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});
             document.dispatchEvent(new Event('visibilitychange'));"
        )
    };
    browser.js(&hide(true)).await;
    assert_eq!(planned(&browser).await, [0.0; 0], "nothing is planned");
    pages.asked();
    pages.set_answer(Answer::Balance(balance(7)));
    browser.js(&hide(false)).await;
    until(&browser, "text('available')", "7").await;
    settled(&browser).await;
    assert_eq!(pages.asked().len(), 1);

    browser
        .js("document.querySelector('token-balance').remove()")
        .await;
    assert_eq!(
        planned(&browser).await,
        [0.0; 0],
        "one that is taken away rests too"
    );
    nothing_went_wrong(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn errors_keep_the_last_figures_and_make_it_ask_more_rarely() {
    let (browser, pages) = opened(&widget("refresh=4")).await;
    until(&browser, "text('available')", "50,500").await;
    settled(&browser).await;
    let mut expected = 4000.0;
    for answer in [
        Answer::Status(500),
        Answer::Text("<html>a portal of an airport</html>"),
        Answer::Text("{}"),
    ] {
        pages.set_answer(answer);
        pass(&browser, &pages, 300_000).await;
        expected *= 2.0;
        assert_eq!(planned(&browser).await, [expected]);
        until(&browser, "text('available')", "50,500").await;
        until(
            &browser,
            "text('note').startsWith('Offline · as of ')",
            true,
        )
        .await;
    }
    // Nothing comes back for 10 s.
    pages.set_answer(Answer::Never);
    browser.js("pass(300000)").await;
    let delays = async || planned(&browser).await;
    eventually("it asks", PATIENCE, delays, |delays| *delays == [10_000.0]).await;
    browser.js("pass(10000)").await;
    assert_eq!(planned(&browser).await, [64_000.0]);

    for (status, seconds, least) in [(429, 1000, 1_000_000.0), (503, u32::MAX, 3_600_000.0)] {
        pages.set_answer(Answer::Wait { status, seconds });
        pass(&browser, &pages, 3_600_000).await;
        assert!(planned(&browser).await[0] >= least);
        // Not even a tab that is shown again asks before that.
        pages.asked();
        browser
            .js("document.dispatchEvent(new Event('visibilitychange'))")
            .await;
        assert!(planned(&browser).await[0] >= least - 60_000.0);
        assert_eq!(pages.asked().len(), 0);
        browser
            .js("const real = Date.now; Date.now = () => real() + 7200000")
            .await;
    }
    pages.set_answer(Answer::Balance(balance(3)));
    pass(&browser, &pages, 3_600_000).await;
    until(
        &browser,
        "text('note')",
        "Running low · Period ends Jan 1, 2027",
    )
    .await;
    assert_eq!(planned(&browser).await, [4000.0]);
    nothing_went_wrong(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn a_token_that_ran_out_is_renewed_by_the_page() {
    let (browser, pages) = opened(&widget("token=stale refresh=4")).await;
    pages.set_answer(Answer::For("fresh", balance(8000)));
    pass(&browser, &pages, 300_000).await;
    until(
        &browser,
        "text('note')",
        "No access to this balance · Period ends Jan 1, 2027",
    )
    .await;
    pages.asked();
    browser
        .js("const widget = document.querySelector('token-balance');
             widget.tokenProvider = async () => 'fresh'; widget.refresh()")
        .await;
    until(&browser, "text('available')", "8,000").await;
    let tokens: Vec<String> = pages
        .asked()
        .into_iter()
        .map(|asked| asked.authorization)
        .collect();
    assert_eq!(tokens, ["Bearer stale", "Bearer fresh"]);
    settled(&browser).await;
    pass(&browser, &pages, 5000).await;
    assert_eq!(pages.asked()[0].authorization, "Bearer fresh");

    // One that gives nothing is waited for no longer than an answer.
    browser
        .js("const widget = document.querySelector('token-balance');
             widget.token = 'stale'; widget.tokenProvider = () => new Promise(() => {}); widget.refresh()")
        .await;
    let asked = async || pages.times_asked();
    eventually("it asks", PATIENCE, asked, |asked| *asked == 1).await;
    browser.js("pass(10000)").await;
    assert_eq!(planned(&browser).await, [8000.0]);
    nothing_went_wrong(&browser).await;
    browser.close().await;
}
