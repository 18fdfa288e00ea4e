//! `/billing/upgrade`: what a browser gets, how it looks, and what its settings refuse.

use reqwest::{Client, StatusCode, header};
use tempfile::NamedTempFile;
use token_billing::config::{Settings, Upgrade};

use crate::support::browser::{Browser, Reader};
use crate::support::pages::Pages;

const COMPANY: &str = "3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90";
const PLANS: &str = r#"
[upgrade]
contact = "billing@example.com"
company_parameter = "client_reference_id"
[[upgrade.plans]]
name = { en = "Starter", zh-TW = "入門方案" }
tokens = 150000
price = { en = "NT$ 300 a month", zh-TW = "每月 NT$ 300" }
features = [{ en = "About 10 articles", zh-TW = "約 10 篇文章" }, { en = "E-mail support", zh-TW = "電子郵件支援" }]
checkout_url = "https://pay.example.com/starter"
[[upgrade.plans]]
name = { en = "Team", zh-TW = "團隊方案" }
tokens = 500000
price = { en = "NT$ 900 a month", zh-TW = "每月 NT$ 900" }
features = [{ en = "About 30 articles", zh-TW = "約 30 篇文章" }, { en = "Tokens shared by the whole team, however many you are", zh-TW = "全團隊共用點數，人數不限" }, { en = "Support within a day", zh-TW = "一個工作天內回覆" }]
checkout_url = "https://pay.example.com/team?from=tokens"
recommended = true
[[upgrade.plans]]
name = { en = "Studio", zh-TW = "工作室方案" }
tokens = 2000000
price = { en = "NT$ 3,000 a month", zh-TW = "每月 NT$ 3,000" }
features = ["API", { en = "About 130 articles", zh-TW = "約 130 篇文章" }]
checkout_url = "http://localhost:4000/studio"
"#;

fn load(text: &str) -> Result<Upgrade, String> {
    let file = NamedTempFile::with_suffix(".toml").expect("a temporary file");
    std::fs::write(file.path(), text).expect("written");
    let path = file.path().display().to_string();
    let settings = Settings::load_from(Some(file.path()), [].into());
    let settings = settings.map_err(|error| error.to_string().replace(&path, "FILE"))?;
    Ok(settings.upgrade)
}

async fn served(settings: &str) -> Pages {
    Pages::serve(&load(settings).expect("good settings")).await
}

/// A line of a plan, and what is said of it.
const WRONG_PLANS: &[(&str, &str)] = &[
    (
        "checkout_url = \"http://x.example\"",
        ".checkout_url: the link is not https://, nor http:// to this machine",
    ),
    (
        "checkout_url = \"javascript:alert(1)\"",
        ".checkout_url: the link is not https://",
    ),
    (
        "checkout_url = \"/plans\"",
        ".checkout_url: not a valid URL: ",
    ),
    (
        "checkout_url = \"https://u:secret@x.example\"",
        ".checkout_url: the link holds a user's name or password",
    ),
    ("tokens = 0", ".tokens: 0 is not in 1..=1000000000000000"),
    (
        "tokens = \"many\"",
        ".tokens: \"many\" is not a whole number",
    ),
    ("name = \" \"", ".name: 0 characters are not in 1..=200"),
    ("name = { zh-TW = \"甲\" }", ".name: en is missing"),
    (
        "name = { en = \"A\", fr = \"B\" }",
        ".name: the languages are en and zh-TW",
    ),
    ("price = 900", ".price: expected a text, or { en = "),
    ("features = [\"\"]", ".features[0]: 0 characters"),
    (
        "colour = \"red\"",
        ".colour: no such setting; there are name, tokens, price, features, ",
    ),
    ("recommended = 1", ".recommended: expected a boolean"),
];

#[test]
fn a_wrong_plan_is_refused_by_its_place_in_the_list() {
    let plan = |line: &str| {
        let mut lines = vec![
            "name = \"A\"",
            "tokens = 1",
            "price = \"1\"",
            "checkout_url = \"https://x.example\"",
        ];
        let key = line.split(" =").next().expect("a key");
        lines.retain(|other| !other.starts_with(key));
        format!("{PLANS}[[upgrade.plans]]\n{}\n{line}\n", lines.join("\n"))
    };
    for (line, problem) in WRONG_PLANS {
        let error = load(&plan(line)).expect_err(line);
        assert!(
            error.starts_with(&format!("upgrade.plans[3]{problem}")),
            "{line}: {error}"
        );
        assert!(error.ends_with("(look in FILE)"), "{error}");
    }
    let error = load(&plan("recommended = true")).expect_err("two");
    assert!(
        error.starts_with("upgrade.plans: more than one plan is recommended"),
        "{error}"
    );
    let error = load("[upgrade]\nplans = \"A\"").expect_err("no list");
    assert!(
        error.starts_with("upgrade.plans: expected a list of plans, which only a file can hold"),
        "{error}"
    );
    let error = load("[upgrade]\ncompany_parameter = \"a b\"").expect_err("a blank");
    assert!(
        error.starts_with("upgrade.company_parameter: \"a b\" is not up to 64 of "),
        "{error}"
    );
}

#[tokio::test]
async fn the_reader_gets_a_language_and_a_link_that_names_the_company() {
    let pages = served(PLANS).await;
    let client = Client::new();
    for (query, accepted, language, title) in [
        ("", "", "en", "Choose a plan"),
        ("", "zh-TW,zh;q=0.9", "zh-TW", "選擇方案"),
        ("?lang=zh-TW", "en", "zh-TW", "選擇方案"),
        ("?lang=en", "zh-TW", "en", "Choose a plan"),
    ] {
        let request = client.get(pages.url(&format!("/billing/upgrade{query}")));
        let answer = request
            .header(header::ACCEPT_LANGUAGE, accepted)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.headers()[header::CONTENT_LANGUAGE], language);
        assert_eq!(answer.headers()[header::VARY], "Accept-Language");
        let body = answer.text().await.expect("a page");
        assert!(
            body.contains(&format!("<html lang=\"{language}\">")),
            "{body}"
        );
        assert!(body.contains(title) && !body.contains(COMPANY), "{body}");
    }
    let get = async |query: &str| {
        let answer = client
            .get(pages.url(&format!("/billing/upgrade{query}")))
            .send()
            .await
            .expect("an answer");
        (answer.status(), answer.text().await.expect("a text"))
    };
    let (_, body) = get(&format!("?company={COMPANY}")).await;
    for link in [
        "starter?client_reference_id=",
        "team?from=tokens&#38;client_reference_id=",
        "upgrade.css",
    ] {
        assert!(body.contains(link), "{link}: {body}");
    }
    assert!(
        body.contains(&format!("?lang=zh-TW&#38;company={COMPANY}")),
        "{body}"
    );
    let (status, body) = get("?company=%22%3E%3Cscript%3E").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        body.starts_with("company: ") && !body.contains("<script>"),
        "{body}"
    );
}

#[tokio::test]
async fn what_settings_say_is_text_and_never_markup() {
    let hostile = PLANS
        .replace("Starter", "<script>alert(1)</script>")
        .replace("starter\"", "starter?\\\"><img>\"")
        .replace("billing@example.com", "<b>Mei</b> & \\\"co\\\"");
    let pages = served(&hostile).await;
    let body = reqwest::get(pages.url("/billing/upgrade"))
        .await
        .expect("an answer");
    let body = body.text().await.expect("a page");
    for markup in ["<script", "<img", "<b>"] {
        assert!(!body.contains(markup), "{markup}: {body}");
    }
    assert!(body.contains("&#60;b&#62;Mei"), "{body}");
}

#[tokio::test]
async fn every_file_has_its_type_and_is_not_sent_twice() {
    let pages = served(PLANS).await;
    let client = Client::new();
    for (path, kind) in [
        ("/widget/token-balance.js", "text/javascript; charset=utf-8"),
        ("/widget/demo", "text/html; charset=utf-8"),
        ("/widget/demo.js", "text/javascript; charset=utf-8"),
        ("/widget/demo.css", "text/css; charset=utf-8"),
        ("/billing/upgrade", "text/html; charset=utf-8"),
        ("/billing/upgrade.css", "text/css; charset=utf-8"),
    ] {
        let answer = client.get(pages.url(path)).send().await.expect("an answer");
        let headers = answer.headers().clone();
        assert_eq!(headers[header::CONTENT_TYPE], kind, "{path}");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        assert_eq!(
            headers[header::CACHE_CONTROL],
            "public, max-age=300",
            "{path}"
        );
        if kind.starts_with("text/html") {
            let policy = headers[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .expect("ASCII");
            assert!(
                policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
                "{policy}"
            );
        }
        let etag = headers[header::ETAG].to_str().expect("ASCII");
        for (tag, status) in [
            (etag.to_owned(), StatusCode::NOT_MODIFIED),
            (format!("\"other\", W/{etag}"), StatusCode::NOT_MODIFIED),
            ("\"other\"".to_owned(), StatusCode::OK),
        ] {
            let again = client
                .get(pages.url(path))
                .header(header::IF_NONE_MATCH, &tag);
            let again = again.send().await.expect("an answer");
            assert_eq!(again.status(), status, "{path} {tag}");
        }
    }
    let script = client
        .get(pages.url("/widget/token-balance.js"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(script.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert!(script.bytes().await.expect("a body").len() < 6000);
}

#[tokio::test]
async fn plans_stand_side_by_side_on_a_desk_and_below_each_other_on_a_phone() {
    let pages = served(PLANS).await;
    let browser = Browser::open().await;
    for (name, width, scheme, lang, columns) in [
        ("upgrade-desktop-en", 1280, "light", "en", 3),
        ("upgrade-desktop-zh-dark", 1280, "dark", "zh-TW", 3),
        ("upgrade-phone-en-dark", 390, "dark", "en", 1),
        ("upgrade-phone-zh", 390, "light", "zh-TW", 1),
    ] {
        let reader = Reader {
            width,
            scheme,
            ..Reader::DESKTOP
        };
        browser
            .show(&pages.url(&format!("/billing/upgrade?lang={lang}")), reader)
            .await;
        browser.picture(name).await;
        let lefts = "return new Set([...document.querySelectorAll('.plan')].map((plan) => plan.offsetLeft)).size";
        assert_eq!(browser.js(lefts).await, columns, "{name}");
        let wide =
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(browser.js(wide).await, 0, "{name} scrolls sideways");
        assert_eq!(browser.found_by_axe().await, [""; 0], "{name}");
    }
    browser
        .show(&pages.url("/billing/upgrade?lang=en"), Reader::DESKTOP)
        .await;
    for reached in [
        "繁體中文",
        "Choose Starter",
        "Choose Team",
        "Choose Studio",
        "billing@example.com",
    ] {
        browser.press_tab().await;
        let focused = "return document.activeElement.textContent.trim()";
        browser.until(focused, reached.into()).await;
    }
    browser.close().await;
}

#[tokio::test]
async fn without_plans_the_page_says_whom_to_ask() {
    let pages = served("[upgrade]\ncontact = \"Mei, extension 12\"").await;
    let browser = Browser::open().await;
    for lang in ["en", "zh-TW"] {
        let reader = Reader {
            width: 390,
            ..Reader::DESKTOP
        };
        browser
            .show(&pages.url(&format!("/billing/upgrade?lang={lang}")), reader)
            .await;
        browser.picture(&format!("upgrade-none-{lang}")).await;
        let text = browser
            .js("return document.querySelector('main').textContent")
            .await;
        assert!(
            text.as_str().expect("a text").contains("Mei, extension 12"),
            "{text}"
        );
        assert_eq!(browser.found_by_axe().await, [""; 0]);
    }
    browser.close().await;
}
