//! `--as`: who stands in the record of what people do by hand.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::variable;

#[derive(Debug, Args)]
pub(super) struct ActorArgs {
    /// Who asks, for the record [default: $SUDO_USER, or $USER]
    #[arg(long = "as", value_name = "WHO", value_parser = NonEmptyStringValueParser::new())]
    actor: Option<String>,
}

impl ActorArgs {
    /// The name given, else the login.
    pub(super) fn name(self) -> String {
        self.actor
            .or_else(|| variable("SUDO_USER"))
            .or_else(|| variable("USER"))
            .unwrap_or_else(|| "unknown".to_owned())
    }
}
