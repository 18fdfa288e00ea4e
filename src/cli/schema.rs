//! `schema`: the documents that programs are written from.

mod asyncapi;

use clap::{Args, ValueEnum};

use super::Ended;
use super::output::print_bytes;
use crate::{api, config::Settings, domain::event_schema};

#[derive(Debug, Args)]
#[command(
    about = "Print a document that programs are written from",
    after_help = "Example:\n  token-billing schema openapi > openapi.json\n\n\
                  Names and limits are those of the settings."
)]
pub(super) struct SchemaArgs {
    /// Which document
    #[arg(value_enum)]
    document: Document,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Document {
    /// One event, as JSON Schema (draft 2020-12)
    Event,
    /// Exchanges, queues and messages on the broker, as AsyncAPI 3.0
    Asyncapi,
    /// The HTTP API, as OpenAPI 3.1
    Openapi,
}

pub(super) fn run(args: &SchemaArgs, settings: &Settings) -> anyhow::Result<Ended> {
    let document = match args.document {
        Document::Event => serde_json::to_string_pretty(&event_schema(&settings.limits))?,
        Document::Asyncapi => serde_json::to_string_pretty(&asyncapi::document(settings))?,
        Document::Openapi => api::openapi(settings).to_pretty_json()?,
    };
    print_bytes(format!("{document}\n").as_bytes())?;
    Ok(Ended::Done)
}
