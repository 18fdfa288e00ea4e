//! Readers for single values. An error says what is wrong and leaves the key's name to the caller;
//! no error repeats a secret.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::{ExpiredMonthly, ExternalWrites, LogFormat};

pub(super) const MILLISECOND: u64 = 1;
pub(super) const SECOND: u64 = 1000 * MILLISECOND;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

/// A whole number in `MIN..=MAX`: a TOML integer, or text as the environment has it.
///
/// # Errors
///
/// Anything else. A fraction is not rounded.
pub(super) fn whole<'de, const MIN: u64, const MAX: u64, T, D>(source: D) -> Result<T, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    let number = source.deserialize_any(Whole)?;
    u64::try_from(number)
        .ok()
        .filter(|number| (MIN..=MAX).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| D::Error::custom(format_args!("{number} is not in {MIN}..={MAX}")))
}

struct Whole;

impl Visitor<'_> for Whole {
    type Value = i128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<i128, E> {
        Ok(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<i128, E> {
        Err(E::custom(format_args!("{number} is not a whole number")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<i128, E> {
        let digits = text.trim();
        digits
            .parse()
            .map_err(|_| E::custom(format_args!("{} is not a whole number", shown(text))))
    }
}

/// A duration such as `500ms`, in whole milliseconds, `MIN..=MAX` of them.
///
/// # Errors
///
/// Anything else, a number without a unit included.
pub(super) fn duration<'de, const MIN: u64, const MAX: u64, D>(
    source: D,
) -> Result<Duration, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(source)?;
    let duration = humantime::parse_duration(text.trim()).map_err(|_| {
        D::Error::custom(format_args!(
            "{} is not a duration such as \"500ms\", \"30s\" or \"10m\"",
            shown(&text)
        ))
    })?;
    if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(D::Error::custom(format_args!(
            "{text:?} is finer than a millisecond"
        )));
    }
    let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
    if !(min..=max).contains(&duration) {
        let (min, max) = (
            humantime::format_duration(min),
            humantime::format_duration(max),
        );
        return Err(D::Error::custom(format_args!(
            "{text:?} is not in {min}..={max}"
        )));
    }
    Ok(duration)
}

/// The value for an error to repeat, unless it is a URL, password and all, under the wrong key.
fn shown(text: &str) -> String {
    if text.contains("://") {
        "a URL".to_owned()
    } else {
        format!("{text:?}")
    }
}

pub(super) fn database_url<'de, D: Deserializer<'de>>(source: D) -> Result<SecretString, D::Error> {
    let text = SecretString::from(String::deserialize(source)?);
    // No host is needed: `postgres:///billing?host=/run/postgresql` is a Unix socket.
    check_url(text.expose_secret(), &["postgres", "postgresql"]).map_err(D::Error::custom)?;
    Ok(text)
}

pub(super) fn broker_url<'de, D: Deserializer<'de>>(source: D) -> Result<SecretString, D::Error> {
    let text = SecretString::from(String::deserialize(source)?);
    let url = check_url(text.expose_secret(), &["amqp", "amqps"]).map_err(D::Error::custom)?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(D::Error::custom("the URL names no host"));
    }
    Ok(text)
}

fn check_url(text: &str, schemes: &[&str]) -> Result<Url, String> {
    if text.is_empty() {
        return Err("empty".to_owned());
    }
    let expected = schemes.join(" or ");
    // `user:password@host` has a "scheme" too, which is why the slashes are asked for before
    // anything is repeated.
    let Some((scheme, _)) = text.split_once("://") else {
        return Err(format!("not a URL, which starts with {}://", schemes[0]));
    };
    if !schemes.contains(&scheme) {
        return Err(format!("the URL's scheme is not {expected}"));
    }
    Url::parse(text).map_err(|error| format!("not a valid URL: {error}"))
}

/// A URL fit for logs and reports: the password and the query (which can hold another) are left out.
#[must_use]
pub fn redacted_url(url: &SecretString) -> String {
    let Ok(mut url) = Url::parse(url.expose_secret()) else {
        return "(not a URL)".to_owned();
    };
    url.set_query(None);
    url.set_fragment(None);
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return format!("{}://…", url.scheme());
    }
    url.into()
}

pub(super) fn prefix<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text)
    } else {
        Err(D::Error::custom(format_args!(
            "{} is not 1 to 64 of A-Z a-z 0-9 . _ -",
            shown(&text)
        )))
    }
}

pub(super) fn expired_monthly<'de, D: Deserializer<'de>>(
    source: D,
) -> Result<ExpiredMonthly, D::Error> {
    match String::deserialize(source)?.as_str() {
        "forfeit" => Ok(ExpiredMonthly::Forfeit),
        "purchased" => Ok(ExpiredMonthly::Purchased),
        other => Err(D::Error::custom(format_args!(
            "{} is not forfeit or purchased",
            shown(other)
        ))),
    }
}

pub(super) fn log_format<'de, D: Deserializer<'de>>(source: D) -> Result<LogFormat, D::Error> {
    match String::deserialize(source)?.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(D::Error::custom(format_args!(
            "{} is not text or json",
            shown(other)
        ))),
    }
}

pub(super) fn external_writes<'de, D: Deserializer<'de>>(
    source: D,
) -> Result<ExternalWrites, D::Error> {
    match String::deserialize(source)?.as_str() {
        "listed" => Ok(ExternalWrites::Listed),
        "forbidden" => Ok(ExternalWrites::Forbidden),
        other => Err(D::Error::custom(format_args!(
            "{} is not listed or forbidden",
            shown(other)
        ))),
    }
}

pub(super) fn log_filter<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    match EnvFilter::builder().parse(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(D::Error::custom(format_args!(
            "{} is not a filter such as info or warn,token_billing=debug",
            shown(&text)
        ))),
    }
}

/// An address and a port; nothing is no address.
pub(super) fn listen<'de, D: Deserializer<'de>>(source: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(source)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        D::Error::custom(format_args!(
            "{} is not an address and a port such as \"127.0.0.1:8080\"",
            shown(&text)
        ))
    })
}

pub(super) fn base_path<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._~-".contains(&byte);
    let is_path = text.starts_with('/') && !text.contains("//") && text.bytes().all(allowed);
    if is_path && (text == "/" || !text.ends_with('/')) {
        Ok(text)
    } else {
        Err(D::Error::custom(format_args!(
            "{} is not \"/\" or a path such as \"/billing\"",
            shown(&text)
        )))
    }
}

/// A URL for a person to follow; empty, there is none.
pub(super) fn link<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    let is_relative = text.starts_with('/') && !text.starts_with("//");
    let is_web = Url::parse(&text)
        .is_ok_and(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    if (text.is_empty() || is_relative || is_web)
        && !text
            .chars()
            .any(|char| char.is_whitespace() || char.is_control())
    {
        Ok(text)
    } else {
        Err(D::Error::custom(
            "not a URL such as \"https://app.example.com/upgrade\" or \"/billing/upgrade\"",
        ))
    }
}

/// Origins, separated by commas. Each is as a browser sends it: no path, in lower case.
pub(super) fn origins<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<String>, D::Error> {
    let text = String::deserialize(source)?;
    let origins = text.split(',').map(str::trim);
    let origins: Vec<String> = origins
        .filter(|origin| !origin.is_empty())
        .map(str::to_owned)
        .collect();
    for origin in &origins {
        let is_origin = Url::parse(origin).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.origin().ascii_serialization() == *origin
        });
        if origin != "*" && !is_origin {
            return Err(D::Error::custom(format_args!(
                "{} is not an origin such as \"https://app.example.com\"",
                shown(origin)
            )));
        }
    }
    Ok(origins)
}
