//! The languages of the pages, and which of them a reader wants.

/// A language that the pages are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    TraditionalChinese,
}

impl Language {
    pub(super) const ALL: [Self; 2] = [Self::English, Self::TraditionalChinese];

    /// As in `lang` and `Content-Language`.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::TraditionalChinese => "zh-TW",
        }
    }

    /// What its readers call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::TraditionalChinese => "繁體中文",
        }
    }

    /// Of what was asked for by name, and of `Accept-Language`, the first that there is; else English.
    pub(super) fn choose(asked: Option<&str>, accepted: Option<&str>) -> Self {
        asked
            .and_then(Self::of_tag)
            .or_else(|| accepted.and_then(Self::preferred))
            .unwrap_or(Self::English)
    }

    /// Any Chinese: there is only one here.
    fn of_tag(tag: &str) -> Option<Self> {
        let primary = tag.trim().split(['-', '_']).next()?;
        if primary.eq_ignore_ascii_case("zh") {
            Some(Self::TraditionalChinese)
        } else if primary.eq_ignore_ascii_case("en") {
            Some(Self::English)
        } else {
            None
        }
    }

    /// The one with the highest weight, of equal ones the first; a weight of 0 is a refusal.
    fn preferred(accepted: &str) -> Option<Self> {
        let mut best = None;
        for range in accepted.split(',') {
            let (tag, parameters) = range.split_once(';').unwrap_or((range, ""));
            let weight = parameters.trim().strip_prefix("q=");
            let weight: f32 = weight.map_or(Some(1.0), |weight| weight.parse().ok())?;
            if let Some(language) = Self::of_tag(tag)
                && weight > best.map_or(0.0, |(_, highest)| highest)
            {
                best = Some((language, weight));
            }
        }
        best.map(|(language, _)| language)
    }
}

#[cfg(test)]
mod tests {
    use super::Language::{self, English, TraditionalChinese};

    #[test]
    fn what_is_asked_for_goes_before_what_the_browser_prefers() {
        for (asked, accepted, chosen) in [
            (None, None, English),
            (Some("zh-TW"), None, TraditionalChinese),
            (Some("ZH-hant"), Some("en"), TraditionalChinese),
            (Some("en"), Some("zh-TW"), English),
            (Some("fr"), Some("zh-TW"), TraditionalChinese),
            (Some(""), None, English),
            (None, Some("zh-TW,zh;q=0.9,en;q=0.8"), TraditionalChinese),
            (None, Some("en;q=0.5, zh;q=0.9"), TraditionalChinese),
            (None, Some("fr, en;q=0.2"), English),
            (None, Some("zh;q=0"), English),
            (None, Some("zh;q=much"), English),
            (None, Some(";;,=,"), English),
        ] {
            assert_eq!(
                Language::choose(asked, accepted),
                chosen,
                "{asked:?}, {accepted:?}"
            );
        }
    }
}
