//! Settings of the page where plans are chosen.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use url::{Host, Url};

use super::values;

/// The page `/billing/upgrade`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Upgrade {
    /// Whom to ask: an e-mail address, an `https://` link, or any text up to 200 characters. Default: nobody is named.
    #[serde(deserialize_with = "contact")]
    pub contact: String,
    /// The query parameter by which a checkout link is told the company, where the page was opened with
    /// `?company=`. 1 to 64 of `A-Z a-z 0-9 _ -`; default: it is not told.
    #[serde(deserialize_with = "parameter")]
    pub company_parameter: String,
    /// What is compared side by side, in this order. Up to 12, of which at most one is recommended; default none.
    #[serde(deserialize_with = "plans")]
    pub plans: Vec<Plan>,
}

/// A plan that can be bought. A list has no place in an environment variable, so it is in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a plan")]
pub struct Plan {
    /// What it is called.
    pub name: Text,
    /// Tokens a month. 1..=1000000000000000.
    #[serde(deserialize_with = "values::whole::<1, 1_000_000_000_000_000, _, _>")]
    pub tokens: u64,
    /// With its currency, as people read it.
    pub price: Text,
    /// What else is in it, up to 20. Default none.
    #[serde(default, deserialize_with = "features")]
    pub features: Vec<Text>,
    /// Where it is bought: `https://`, or `http://` on this machine.
    #[serde(deserialize_with = "checkout_url")]
    pub checkout_url: Url,
    /// Whether it is marked as recommended. Default false.
    #[serde(default)]
    pub recommended: bool,
}

/// A text of 1 to 200 characters, the same in every language or one for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// In English.
    pub en: String,
    /// In Traditional Chinese; the English one where the setting has none.
    pub zh_tw: String,
}

const LONGEST: usize = 200;

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or { en = \"…\", zh-TW = \"…\" }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
        let text = filled(text)?;
        Ok(Text {
            en: text.clone(),
            zh_tw: text,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut languages: A) -> Result<Text, A::Error> {
        let (mut en, mut zh_tw) = (None, None);
        while let Some(language) = languages.next_key::<String>()? {
            let text = filled(&languages.next_value::<String>()?)?;
            match language.as_str() {
                "en" => en = Some(text),
                "zh-TW" => zh_tw = Some(text),
                _ => return Err(A::Error::custom("the languages are en and zh-TW")),
            }
        }
        let en = en.ok_or_else(|| A::Error::custom("en is missing"))?;
        let zh_tw = zh_tw.unwrap_or_else(|| en.clone());
        Ok(Text { en, zh_tw })
    }
}

fn filled<E: Error>(text: &str) -> Result<String, E> {
    let text = text.trim();
    match text.chars().count() {
        1..=LONGEST => Ok(text.to_owned()),
        length => Err(E::custom(format_args!(
            "{length} characters are not in 1..={LONGEST}"
        ))),
    }
}

fn plans<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<Plan>, D::Error> {
    let plans: Vec<Plan> = few::<12, _, _>(source, "a list of plans, which only a file can hold")?;
    if plans.iter().filter(|plan| plan.recommended).count() > 1 {
        return Err(D::Error::custom("more than one plan is recommended"));
    }
    Ok(plans)
}

fn features<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<Text>, D::Error> {
    few::<20, _, _>(source, "a list of texts")
}

/// A list of at most `MAX`.
fn few<'de, const MAX: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    source: D,
    expected: &'static str,
) -> Result<Vec<T>, D::Error> {
    struct Few<T>(usize, &'static str, std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.1)
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                list.push(item);
            }
            if list.len() > self.0 {
                let problem = format_args!("{} are more than {}", list.len(), self.0);
                return Err(A::Error::custom(problem));
            }
            Ok(list)
        }
    }

    source.deserialize_any(Few(MAX, expected, std::marker::PhantomData))
}

fn contact<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    if text.trim().is_empty() {
        return Ok(String::new());
    }
    filled(&text)
}

fn parameter<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if text.len() <= 64 && text.bytes().all(allowed) {
        Ok(text)
    } else {
        Err(D::Error::custom(format_args!(
            "{text:?} is not up to 64 of A-Z a-z 0-9 _ -"
        )))
    }
}

fn checkout_url<'de, D: Deserializer<'de>>(source: D) -> Result<Url, D::Error> {
    let text = String::deserialize(source)?;
    let url = Url::parse(&text)
        .map_err(|error| D::Error::custom(format_args!("not a valid URL: {error}")))?;
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
        return Err(D::Error::custom(
            "the link is not https://, nor http:// to this machine",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(D::Error::custom("the link holds a user's name or password"));
    }
    Ok(url)
}
