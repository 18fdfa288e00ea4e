//! Starts the roles of a serving process and stops them in order.

use crate::cli::Role;
use crate::config::Settings;

/// Runs these roles until the process is told to stop.
///
/// # Errors
///
/// Always, for now.
pub async fn serve(_settings: Settings, roles: Vec<Role>) -> anyhow::Result<()> {
    anyhow::bail!("serve is not there yet ({roles:?})")
}
