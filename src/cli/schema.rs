//! `schema`: the documents that programs are written from.

use clap::{Args, ValueEnum};

use super::Ended;
use super::output::print_bytes;
use crate::api;

#[derive(Debug, Args)]
#[command(
    about = "Print a document that programs are written from",
    after_help = "Example:\n  token-billing schema openapi > openapi.json"
)]
pub(super) struct SchemaArgs {
    /// Which document
    #[arg(value_enum)]
    document: Document,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Document {
    /// The HTTP API, as OpenAPI 3.1
    Openapi,
}

pub(super) fn run(args: &SchemaArgs) -> anyhow::Result<Ended> {
    let document = match args.document {
        Document::Openapi => api::openapi("/").to_pretty_json()?,
    };
    print_bytes(format!("{document}\n").as_bytes())?;
    Ok(Ended::Done)
}
