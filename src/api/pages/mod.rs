//! Pages for people, and the widget for pages of others. None of them needs a key: what they show is either fixed or
//! fetched by the reader's browser with a token of its own.

mod asset;
mod language;
mod upgrade;
mod widget;

use axum::Router;

use crate::config::Upgrade;

/// `/widget/…` and `/billing/upgrade`, to be nested below the base path. Their links are relative.
pub fn router(upgrade: &Upgrade) -> Router {
    widget::router().merge(upgrade::router(upgrade))
}
