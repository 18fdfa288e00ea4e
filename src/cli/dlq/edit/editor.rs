//! The person's own editor, on a file of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use tempfile::NamedTempFile;

use crate::cli::output::note;
use crate::cli::{ask, variable};

/// Lets `check` accept what the editor saved, or tells why not and edits again. `None`: it was saved as it
/// was. Whatever was typed survives a failure, in a file whose path is told.
pub(super) fn edit<T>(
    id: i64,
    text: &[u8],
    check: impl Fn(&[u8]) -> Result<T, String>,
) -> anyhow::Result<Option<T>> {
    let Some(editor) = variable("VISUAL").or_else(|| variable("EDITOR")) else {
        bail!("neither VISUAL nor EDITOR names an editor; or change fields by --set FIELD=VALUE");
    };
    let file = tempfile::Builder::new()
        .prefix(&format!("dead-letter-{id}-"))
        .suffix(".json")
        .tempfile()
        .context("a temporary file")?;
    std::fs::write(file.path(), text).context("a temporary file")?;
    loop {
        let saved = match open(&editor, file.path()) {
            Ok(saved) => saved,
            Err(error) => {
                let untouched = std::fs::read(file.path()).is_ok_and(|now| now == text);
                let kept = if untouched {
                    "nothing was changed".to_owned()
                } else {
                    given_up(file)
                };
                return Err(error.context(kept));
            }
        };
        if saved.trim_ascii_end() == text.trim_ascii_end() {
            return Ok(None);
        }
        match check(&saved) {
            Ok(checked) => return Ok(Some(checked)),
            Err(problem) if ask::is_possible() => {
                note(&format!("error: {problem}"));
                if !ask::confirm("Go on editing?", true)? {
                    bail!("{}", given_up(file));
                }
            }
            Err(problem) => bail!("{problem}; {}", given_up(file)),
        }
    }
}

/// Runs the editor as a shell would: it may come with arguments (`code --wait`).
fn open(editor: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$@\""), editor])
        .arg(path)
        .status()
        .with_context(|| format!("running {editor}"))?;
    if !status.success() {
        bail!("{editor}: {status}");
    }
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn given_up(file: NamedTempFile) -> String {
    let kept: Option<PathBuf> = file.keep().map(|(_, path)| path).ok();
    match kept {
        Some(path) => format!(
            "nothing was changed; what you typed is in {}",
            path.display()
        ),
        None => "nothing was changed".to_owned(),
    }
}
