//! `<token-balance>`, and a page that shows it in every state.

use axum::{Router, http::HeaderMap, routing::get};

use super::asset::Asset;

pub(super) fn router() -> Router {
    let fixed = [
        (
            "/widget/token-balance.js",
            Asset::script(&squeezed(include_str!("token-balance.js"))).for_other_origins(),
        ),
        (
            "/widget/demo",
            Asset::page(include_str!("demo.html").to_owned()),
        ),
        ("/widget/demo.js", Asset::script(include_str!("demo.js"))),
        ("/widget/demo.css", Asset::css(include_str!("demo.css"))),
    ];
    let mut router = Router::new();
    for (path, asset) in fixed {
        let answer = async move |request: HeaderMap| asset.answer(&request);
        router = router.route(path, get(answer));
    }
    router
}

/// The script without what only its readers need: comments on lines of their own, and white space at line ends, around
/// operators and after commas and colons. No text in it has any of these.
fn squeezed(source: &str) -> String {
    let lines = source
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"));
    let mut script = String::new();
    for line in lines {
        script.push_str(line);
        if !line.ends_with([';', '{', ',', '(']) {
            script.push('\n');
        }
    }
    let operators = [
        "=>", "==", "!=", "=", "??", "&&", "||", "?", ":", "+", "*", "**", "-", "<", ">",
    ];
    for operator in operators {
        script = script.replace(&format!(" {operator} "), operator);
    }
    for (spacious, tight) in [
        (", ", ","),
        (": ", ":"),
        ("{ ", "{"),
        (" }", "}"),
        (") {", "){"),
        ("if (", "if("),
        (";}", "}"),
    ] {
        script = script.replace(spacious, tight);
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widget_is_below_6000_bytes_and_keeps_its_texts() {
        let source = include_str!("token-balance.js");
        let served = squeezed(source);
        assert!(served.len() < 6000, "{} bytes", served.len());
        let texts = source.split("const TEXTS = {").nth(1).expect("texts");
        let texts = texts.split("};").next().expect("their end");
        let texts: Vec<&str> = texts.split('\'').skip(1).step_by(2).collect();
        assert_eq!(texts.len(), 22);
        for text in texts {
            assert!(served.contains(&format!("'{text}'")), "{text}");
        }
    }
}
