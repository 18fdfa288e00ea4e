//! `/billing/upgrade`: the plans of the settings side by side, for applications that have no such page.

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::{asset::Asset, language::Language};
use crate::config::{Plan, Text, Upgrade};

pub(super) fn router(upgrade: &Upgrade) -> Router {
    let css = Asset::css(include_str!("upgrade.css"));
    Router::new()
        .route("/billing/upgrade", get(page))
        .with_state(Arc::new(upgrade.clone()))
        .route(
            "/billing/upgrade.css",
            get(async move |request: HeaderMap| css.answer(&request)),
        )
}

#[derive(Debug, Default, Deserialize)]
struct Asked {
    lang: Option<String>,
    company: Option<String>,
}

async fn page(
    State(upgrade): State<Arc<Upgrade>>,
    Query(asked): Query<Asked>,
    request: HeaderMap,
) -> Response {
    let accepted = request.get(header::ACCEPT_LANGUAGE);
    let accepted = accepted.and_then(|value| value.to_str().ok());
    let language = Language::choose(asked.lang.as_deref(), accepted);
    // Plans bought for a company that there can't be would be bought for nobody.
    let company = asked.company.filter(|company| !company.is_empty());
    let company = match company.map(|company| Uuid::parse_str(company.trim())) {
        None => None,
        Some(Ok(company)) => Some(company),
        Some(Err(_)) => {
            let problem = words(language).bad_company;
            return (StatusCode::BAD_REQUEST, problem).into_response();
        }
    };
    let body = match Page::new(&upgrade, language, company).render() {
        Ok(body) => body,
        Err(error) => {
            tracing::error!(%error, "the upgrade page was not rendered");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let mut page = Asset::page(body);
    page.set(
        header::CONTENT_LANGUAGE,
        HeaderValue::from_static(language.tag()),
    );
    page.set(header::VARY, HeaderValue::from_static("Accept-Language"));
    page.answer(&request)
}

#[derive(Template)]
#[template(path = "upgrade.html", config = "src/api/pages/askama.toml")]
struct Page<'a> {
    lang: &'static str,
    words: &'static Words,
    languages: Vec<Switch>,
    plans: Vec<Card<'a>>,
    contact: Contact<'a>,
}

/// A link to the page in another language.
struct Switch {
    tag: &'static str,
    name: &'static str,
    href: String,
}

struct Card<'a> {
    name: &'a str,
    tokens: String,
    price: &'a str,
    features: Vec<&'a str>,
    checkout: String,
    recommended: bool,
}

/// Whom to ask, as a link where it is one.
struct Contact<'a> {
    text: &'a str,
    href: Option<String>,
}

impl<'a> Page<'a> {
    fn new(upgrade: &'a Upgrade, language: Language, company: Option<Uuid>) -> Self {
        let switch = |other: Language| {
            let company = company.map_or(String::new(), |company| format!("&company={company}"));
            Switch {
                tag: other.tag(),
                name: other.name(),
                href: format!("?lang={}{company}", other.tag()),
            }
        };
        let card = |plan: &'a Plan| Card {
            name: in_language(&plan.name, language),
            tokens: grouped(plan.tokens),
            price: in_language(&plan.price, language),
            features: plan
                .features
                .iter()
                .map(|feature| in_language(feature, language))
                .collect(),
            checkout: checkout(&plan.checkout_url, &upgrade.company_parameter, company),
            recommended: plan.recommended,
        };
        Self {
            lang: language.tag(),
            words: words(language),
            languages: Language::ALL
                .into_iter()
                .filter(|other| *other != language)
                .map(switch)
                .collect(),
            plans: upgrade.plans.iter().map(card).collect(),
            contact: Contact::new(&upgrade.contact),
        }
    }
}

impl<'a> Contact<'a> {
    fn new(text: &'a str) -> Self {
        let is_address = text.contains('@')
            && !text.contains(|char: char| char.is_whitespace() || "?&:/".contains(char));
        let href = if text.starts_with("https://") && Url::parse(text).is_ok() {
            Some(text.to_owned())
        } else {
            is_address.then(|| format!("mailto:{text}"))
        };
        Self { text, href }
    }
}

fn in_language(text: &Text, language: Language) -> &str {
    match language {
        Language::English => &text.en,
        Language::TraditionalChinese => &text.zh_tw,
    }
}

fn checkout(link: &Url, parameter: &str, company: Option<Uuid>) -> String {
    let mut link = link.clone();
    if let Some(company) = company
        && !parameter.is_empty()
    {
        link.query_pairs_mut()
            .append_pair(parameter, &company.to_string());
    }
    link.into()
}

/// `1234567` → `1,234,567`, as both languages write it.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What the page says in one language.
struct Words {
    title: &'static str,
    lead: &'static str,
    recommended: &'static str,
    tokens: &'static str,
    choose: &'static str,
    language: &'static str,
    none_title: &'static str,
    none: &'static str,
    contact: &'static str,
    bad_company: &'static str,
}

fn words(language: Language) -> &'static Words {
    match language {
        Language::English => &Words {
            title: "Choose a plan",
            lead: "Every finished article uses tokens. Pick the monthly amount that fits your work.",
            recommended: "Recommended",
            tokens: "tokens a month",
            choose: "Choose",
            language: "Language",
            none_title: "More tokens",
            none: "Plans can't be chosen here yet. Whoever looks after your account can add tokens for you.",
            contact: "Questions?",
            bad_company: "company: not a UUID. Please open this page from your application again.",
        },
        Language::TraditionalChinese => &Words {
            title: "選擇方案",
            lead: "每完成一篇文章都會使用點數，請選擇符合您需求的每月額度。",
            recommended: "推薦",
            tokens: "點／月",
            choose: "選擇",
            language: "語言",
            none_title: "取得更多點數",
            none: "目前尚無法在此選購方案，請聯絡您的帳戶管理員為您加值。",
            contact: "有問題嗎？",
            bad_company: "company：不是有效的 UUID，請從您的應用程式重新開啟此頁面。",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [
            (1, "1"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_contact_is_a_link_only_where_it_is_an_address() {
        let href = |text| Contact::new(text).href;
        assert_eq!(
            href("billing@example.com").as_deref(),
            Some("mailto:billing@example.com")
        );
        assert_eq!(
            href("https://example.com/help").as_deref(),
            Some("https://example.com/help")
        );
        for text in [
            "",
            "Mei, extension 12",
            "javascript:alert(1)",
            "http://example.com",
            "javascript:a@b",
            "a@b?cc=c@d",
        ] {
            assert_eq!(href(text), None, "{text}");
        }
    }
}
