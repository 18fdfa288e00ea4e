//! How the widget looks, and what assistive technology makes of it: in each state, language and theme.

use token_billing::config::Upgrade;

use crate::support::browser::{Browser, Reader};
use crate::support::pages::Pages;

#[tokio::test]
async fn every_state_is_shown_and_axe_finds_nothing_wrong_with_any() {
    let pages = Pages::serve(&Upgrade::default()).await;
    let browser = Browser::open().await;
    for (name, reader) in [
        ("demo-desktop-light", Reader::DESKTOP),
        (
            "demo-desktop-dark",
            Reader {
                scheme: "dark",
                ..Reader::DESKTOP
            },
        ),
        (
            "demo-phone-light",
            Reader {
                width: 390,
                ..Reader::DESKTOP
            },
        ),
        (
            "demo-forced-colors",
            Reader {
                forced_colors: true,
                ..Reader::DESKTOP
            },
        ),
    ] {
        browser.show(&pages.url("/widget/demo"), reader).await;
        let shown = "return document.querySelectorAll('token-balance').length";
        browser.until(shown, 32.into()).await;
        browser.picture(name).await;
        // Of forced colours it knows nothing, and judges those of the style sheet.
        if !reader.forced_colors {
            assert_eq!(browser.found_by_axe().await, [""; 0], "{name}");
        }
        let wide =
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(browser.js(wide).await, 0, "{name} scrolls sideways");
    }
    assert_eq!(pages.asked(), [], "no server is asked");
    browser.close().await;
}

#[tokio::test]
async fn without_a_theme_it_follows_the_system() {
    let pages = Pages::serve(&Upgrade::default()).await;
    pages.set_page("<token-balance></token-balance><token-balance theme=light></token-balance>");
    let browser = Browser::open().await;
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        let reader = Reader {
            scheme,
            ..Reader::DESKTOP
        };
        browser.show(&pages.url("/page"), reader).await;
        let ground = "return [...document.querySelectorAll('token-balance')].map((widget) =>
            getComputedStyle(widget.shadowRoot.querySelector('[part=box]')).backgroundColor)";
        grounds.push(browser.js(ground).await);
    }
    let (light, dark) = (&grounds[0], &grounds[1]);
    assert_eq!(light[0], light[1]);
    assert_ne!(dark[0], dark[1]);
    assert_eq!(dark[1], light[1]);
    browser.close().await;
}
