//! How far it is: a bar on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::{count, note, thousands};

/// Between two lines where there is no terminal.
const SPARSE: Duration = Duration::from_secs(10);

pub(super) enum Progress {
    Bar(ProgressBar),
    Lines { events: u64, last: Instant },
}

impl Progress {
    pub(super) fn new(events: u64) -> Self {
        if !stderr().is_terminal() {
            let last = Instant::now();
            return Self::Lines { events, last };
        }
        let bar = ProgressBar::with_draw_target(Some(events), ProgressDrawTarget::stderr());
        let form = "{bar:30} {human_pos} of {human_len} events, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    pub(super) fn at(&mut self, done: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(done),
            Self::Lines { events, last } if last.elapsed() >= SPARSE => {
                *last = Instant::now();
                let events = count(*events, "event");
                note(&format!("confirmed {} of {events}", thousands(done)));
            }
            Self::Lines { .. } => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
