//! `--as`: who stands in the record of what people do by hand.

use clap::Args;

use super::{not_blank, variable};
use crate::operations::{Actor, OperationError};

#[derive(Debug, Args)]
pub(super) struct ActorArgs {
    /// Who asks, for the record [default: $SUDO_USER, or $USER]
    #[arg(long = "as", value_name = "WHO", value_parser = not_blank)]
    actor: Option<String>,
}

impl ActorArgs {
    pub(super) fn actor(self) -> Result<Actor, OperationError> {
        Actor::new(&self.name())
    }

    /// The name given, else the login.
    pub(super) fn name(self) -> String {
        self.actor
            .or_else(|| variable("SUDO_USER"))
            .or_else(|| variable("USER"))
            .unwrap_or_else(|| "unknown".to_owned())
    }
}
