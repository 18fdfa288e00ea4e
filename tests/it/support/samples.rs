//! Metrics as they are exported.

use std::collections::BTreeMap;

/// Sample name with its labels → value.
pub(crate) fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        Some((series.to_owned(), value.parse().ok()?))
    };
    lines.filter_map(sample).collect()
}

/// The value of `charges_total{outcome="charged"}`, say.
pub(crate) fn value(text: &str, series: &str) -> f64 {
    let samples = samples(text);
    let found = samples.get(&format!("token_billing_{series}"));
    *found.unwrap_or_else(|| panic!("no {series} in {samples:#?}"))
}
