//! How far a command is: drawn on a terminal, elsewhere now and then a line. Gone at its end.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use super::output::note;

/// Between two lines where there is no terminal.
const SPARSE: Duration = Duration::from_secs(10);

/// Does work that tells how far it is, and shows whatever is new.
pub(in crate::cli) async fn shown<P: Clone + Default, W: Future>(
    work: impl FnOnce(watch::Sender<P>) -> W,
    mut show: impl FnMut(P),
) -> W::Output {
    let (tell, mut told) = watch::channel(P::default());
    let showing = async {
        while told.changed().await.is_ok() {
            let news = told.borrow_and_update().clone();
            show(news);
        }
    };
    tokio::join!(work(tell), showing).0
}

/// One line on standard error.
pub(in crate::cli) struct ProgressLine {
    bar: ProgressBar,
    last: Instant,
}

impl ProgressLine {
    /// A bar up to `total`, in the form of an `indicatif` template.
    pub(in crate::cli) fn bar(total: u64, form: &str) -> Self {
        Self::drawn(ProgressBar::new(total), form)
    }

    /// A spinner with a text, for work whose size isn't known.
    pub(in crate::cli) fn spinner() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self::drawn(bar, "{spinner} {msg}")
    }

    fn drawn(bar: ProgressBar, form: &str) -> Self {
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        let last = Instant::now();
        Self { bar, last }
    }

    /// So many are done; a plan that turns out too low is corrected.
    pub(in crate::cli) fn at(&self, done: u64) {
        if self.bar.length().is_some_and(|length| length < done) {
            self.bar.set_length(done);
        }
        self.bar.set_position(done);
    }

    /// Done in each second so far.
    pub(in crate::cli) fn per_second(&self) -> u64 {
        (self.bar.position() as f64 / self.bar.elapsed().as_secs_f64().max(0.001)) as u64
    }

    /// The template's `{msg}`.
    pub(in crate::cli) fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Where there is no terminal and nothing was said for ten seconds, says `line`.
    pub(in crate::cli) fn sparse(&mut self, line: impl FnOnce() -> String) {
        if self.bar.is_hidden() && self.last.elapsed() >= SPARSE {
            self.last = Instant::now();
            note(&line());
        }
    }

    /// Says a line of its own, which stays.
    pub(in crate::cli) fn say(&self, line: &str) {
        self.bar.suspend(|| note(line));
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
